"""What `meshhook enqueue` reads is carried exactly, or refused with the line and the reason."""

from __future__ import annotations

import contextlib
import io
import json
import re
from decimal import Decimal, InvalidOperation
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshhook.cli import json_lines
from meshhook.cli.failures import UsageError
from meshhook.cli.json_lines import JsonLines
from meshhook.errors import InvalidJobError
from meshhook.store.bodies import encode_body
from support.fuzzing import examples
from support.hostile import TEXTS, is_safe_line

NUMBERS = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
    st.sampled_from(
        [
            "-0",
            "-0.0",
            "0.1",
            "1e400",
            "-1e400",
            "1e-400",
            "1e131071",
            "9007199254740993",
            "9007199254740993.0",
            "18446744073709551616",
            "12345678901234567890.123456789",
            "0.1000000000000000055511151231257827",
            "1e" + "9" * 30,
            "9" * 4_300,
            "9" * 10_000,
            "NaN",
            "-Infinity",
            "01",
            "+1",
            "1.",
            "0x10",
        ]
    ),
)
STRINGS = TEXTS.map(json.dumps) | st.sampled_from(['"\\ud800"', '"\\u0000"', '"\\ud83d\\ude00"'])
DOCUMENTS = st.recursive(
    NUMBERS | STRINGS | st.sampled_from(["null", "true", "", "[" * 100_000, "{"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: f"[{','.join(parts)}]"),
        st.lists(st.tuples(STRINGS | st.sampled_from(['"a"', '"payload"']), inner), max_size=3).map(
            lambda pairs: "{" + ", ".join(f"{name}: {value}" for name, value in pairs) + "}"
        ),
    ),
    max_leaves=6,
)


def _read(data: bytes) -> list[Any]:
    lines = JsonLines(json_lines._lines_of(io.BytesIO(data)), name="standard input")
    return [line.value for line in lines]


def _exact(text: str) -> Any:
    """Read JSON so that nothing is lost: duplicates and digits stay."""
    return json.loads(text, parse_float=Decimal, parse_int=Decimal, object_pairs_hook=_as_pairs)


def _as_pairs(pairs: list[tuple[str, Any]]) -> Any:
    return sorted(pairs, key=lambda pair: pair[0])


@examples(300)
@given(document=DOCUMENTS)
@example(document='{"a": 1, "a": 2}')
@example(document="[12345678901234567890.123456789]")
def test_a_job_is_carried_exactly_or_refused(document):
    """Numbers, keys that stand twice, halves of characters, and depth."""
    data = document.encode("utf-8", "surrogatepass")
    try:
        [value] = _read(data)
        sent = encode_body({"payload": value}, 10**8)
    except (InvalidJobError, UsageError) as error:
        text = str(error)
        assert all(is_safe_line(line) for line in text.split("\n"))
        assert len(text) < 1_000
    else:
        assert _exact(sent) == [("payload", _exact(document))]


@examples(100)
@given(
    data=st.binary()
    | st.builds(
        lambda document, encoding: document.encode(errors="replace").decode().encode(encoding),
        DOCUMENTS,
        st.sampled_from(["utf-16", "utf-32", "utf-8-sig", "utf-16-le"]),
    )
)
def test_any_bytes_are_read_or_refused(data):
    """In other encodings, too."""
    with contextlib.suppress(InvalidJobError, UsageError):
        assert _read(data)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 1, "a": 2}', "the key 'a' appears twice"),
        (b"12345678901234567890.5", "send it as text"),
        (b"1e400", "send it as text"),
        (b"9" * 10_000, "a whole number of 10000 digits"),
        (b"NaN", "not JSON"),
        (b'"\\ud800"', "half of a surrogate pair"),
        (b'"\\u0000"', "U+0000"),
        (b"[" * 100_000, "nested too deeply"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b"\xff", "not UTF-8"),
    ],
    ids=range(10),
)
def test_the_line_and_the_reason_are_named(line, reason):
    """And the lines before it were read."""
    lines = JsonLines(json_lines._lines_of(io.BytesIO(b"1\n" + line + b"\n2\n")), name="it")
    read: list[Any] = []
    with pytest.raises(InvalidJobError, match=re.escape(reason)) as caught:
        read.extend(encode_body(each.value, 10**8) for each in lines)
    assert read == ["1"]
    # Where the line is read but cannot be stored, `enqueue` puts its number before the reason.
    if not str(caught.value).startswith("job"):
        assert str(caught.value).startswith("it, line 2: ")


def test_a_line_that_never_ends_is_refused_at_the_limit(monkeypatch):
    """And not waited for."""

    class Endless(io.RawIOBase):
        given = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            self.given += len(buffer)
            buffer[:] = b"1" * len(buffer)
            return len(buffer)

    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", 1_000_000)
    endless = Endless()
    lines = JsonLines(json_lines._lines_of(io.BufferedReader(endless)), name="it")
    with pytest.raises(InvalidJobError, match="line 1: longer than 1,000,000 bytes"):
        list(lines)
    assert endless.given < 1_100_000


def test_a_number_that_is_no_decimal_is_refused():
    """An exponent of thirty digits."""
    with pytest.raises(InvalidOperation):
        Decimal("1e" + "9" * 30) + 1
    with pytest.raises(InvalidJobError, match="send it as text"):
        _read(b"1e" + b"9" * 30)
