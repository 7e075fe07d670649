"""What stands in log records makes no second line, obeys no terminal, and loses no record."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest
from hypothesis import given

from meshhook.observability.loggers import get_logger
from meshhook.observability.logs import configure_logging
from support.hostile import HOSTILE_VALUES, ODD_OBJECTS, TEXTS, is_safe_line

VALUES = {**HOSTILE_VALUES, **ODD_OBJECTS}


class Stream(io.TextIOWrapper):
    """A stream of one encoding, as strict as a file."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    def lines(self) -> list[str]:
        """Return what was written, by line."""
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode(self.encoding).removesuffix("\n").split("\n")


@pytest.fixture(autouse=True)
def raising(monkeypatch):
    """A record that cannot be shown fails the test, and not only in words on standard error."""

    def fail(*_: Any) -> None:
        raise  # noqa: PLE0704 - what is handled where this is called

    monkeypatch.setattr(logging.Handler, "handleError", fail)


def _hostile_error(text: str) -> Exception:
    # Whatever a class may be called.
    name = text.replace("\0", "").encode(errors="ignore").decode() or "E"
    kind: type[Exception] = type(name, (Exception,), {})
    return kind(text)


@pytest.mark.parametrize("log_format", ["json", "console"])
@given(text=TEXTS, key=TEXTS)
def test_a_record_is_one_line_whatever_is_in_it(log_format, text, key):
    """In the event, a field, its name, within lists and objects; for people and for programs."""
    stream = Stream()
    configure_logging(log_format, stream=stream)
    logging.getLogger("x").warning("%s", text, extra={f"k{key}": text, "deep": [{text: [text]}]})
    get_logger("y").warning("happened", field=text, error=_hostile_error(text))
    first, second = stream.lines()
    assert is_safe_line(first)
    assert is_safe_line(second)
    if log_format == "json":
        said = json.loads(json.dumps(text))  # two halves of a pair are one character in JSON
        assert json.loads(first)["deep"] == [{said: [said]}]
        assert json.loads(second)["field"] == said


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_no_value_loses_a_record(log_format, value):
    """Whatever it does when it is shown."""
    stream = Stream()
    configure_logging(log_format, stream=stream)
    get_logger("x").warning("happened", value=value, nested={"a": [value]}, n=1)
    [line] = stream.lines()
    assert is_safe_line(line)
    assert "happened" in line


@given(text=TEXTS)
def test_a_trace_forges_no_record(text):
    """Its lines are indented for people; for programs it is a field."""
    stream, for_programs = Stream(), Stream()
    for configured, log_format in ((stream, "console"), (for_programs, "json")):
        configure_logging(log_format, stream=configured)
        error = _hostile_error(f"{text}\n2026-11-29 [info] forged")
        logging.getLogger("x").error("failed", exc_info=error)
    first, *rest = stream.lines()
    assert first.endswith("]") or "error_type" in first
    assert rest
    assert all(line.startswith("    ") and is_safe_line(line) for line in rest)
    [record] = for_programs.lines()
    assert is_safe_line(record)
    assert "forged" in json.loads(record)["exception"]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-16-le"])
def test_json_stays_json_in_any_encoding(encoding):
    """What an encoding lacks is escaped as JSON does it."""
    stream = Stream(encoding)
    configure_logging("json", stream=stream)
    get_logger("x").warning("日本 ä", field="\ud800")
    [line] = stream.lines()
    assert json.loads(line)["event"] == "日本 ä"


@given(text=TEXTS)
def test_the_message_of_a_record_is_one_line(text):
    """In an application with a set-up of its own."""
    stream = io.StringIO()
    logger = logging.getLogger("meshhook.plain")
    logger.propagate = False
    logger.handlers = [logging.StreamHandler(stream)]
    get_logger("meshhook.plain").warning("happened", field=text, error=_hostile_error(text))
    assert is_safe_line(stream.getvalue().removesuffix("\n"))
