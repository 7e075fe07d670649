"""Durations, numbers, JSON and tables."""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

import pytest
from rich.console import Console

from meshhook import errors
from meshhook.cli import failures, output
from meshhook.cli.failures import ExitCode, PartlyDoneError, describe, exit_code
from meshhook.cli.output import Column
from meshhook.cli.tables import table
from meshhook.errors import (
    DatabaseError,
    DatabaseUnavailableError,
    InvalidJobError,
    MeshHookError,
    UncertainCommitError,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (-3, "0s"),
        (0, "0s"),
        (0.0004, "0s"),
        (0.042, "42ms"),
        (0.9999, "1.0s"),
        (4.24, "4.2s"),
        (59.9, "59s"),
        (60, "1m 0s"),
        (192, "3m 12s"),
        (3_600, "1h 0m"),
        (7_500, "2h 5m"),
        (86_400 * 4 + 3_600 * 3, "4d 3h"),
    ],
)
def test_durations_have_two_units_at_the_most(seconds, text):
    """They are short."""
    assert output.duration(seconds) == text


def test_a_moment_is_shown_in_utc_with_its_distance():
    """In the past and in the future."""
    now = datetime.now(UTC)
    assert "(3m 1" in output.moment_with_age(now - timedelta(seconds=192))
    assert "(in 2h 5m)" in output.moment_with_age(now + timedelta(seconds=7_530))
    assert output.moment_with_age(None) == output.age(None) == "-"


def test_json_has_fields_and_moments_in_utc(capsys):
    """Moments in other zones are converted."""

    @dataclass(slots=True)
    class Thing:
        at: datetime
        parts: tuple[int, ...]

    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    output.print_json([Thing(at, (1, 2))])
    assert '"at": "2026-01-02T01:04:05Z"' in capsys.readouterr().out


def test_json_is_escaped_where_the_output_lacks_a_character(monkeypatch):
    """Escaped, it is the same document."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1")
    monkeypatch.setattr("sys.stdout", stream)
    output.print_json({"x": "✓"})
    stream.flush()
    assert b"\\u2713" in raw.getvalue()


COLUMNS = (
    Column("ID", is_number=True),
    Column("STATE"),
    Column("RUN", shrinks=True),
    Column("ERROR", shrinks=True, is_optional=True),
)
ROWS = [["1", "dead_lettered", "r" * 36, "TimeoutError: " + "x" * 100], ["20", "ready", "-", ""]]


def lines(width: int, rows=ROWS) -> list[str]:
    """Return the lines of a table on a terminal."""
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(table(COLUMNS, rows, width))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
def test_a_table_never_exceeds_its_width(width):
    """Whatever the width."""
    assert max(map(len, lines(width))) <= width


def test_a_wide_table_shows_everything():
    """Nothing is cut if there is room."""
    assert lines(200)[1].endswith("x" * 100)


def test_a_table_at_80_columns_cuts_what_may_be_cut():
    """Each row stays one line, and an ellipsis marks the cut."""
    found = lines(80)
    assert len(found) == 3
    assert "dead_lettered" in found[1]
    assert "…" in found[1]


def test_a_narrower_table_leaves_optional_columns_out():
    """The other columns stay."""
    assert lines(40)[0].split() == ["ID", "STATE", "RUN"]


def test_a_very_narrow_table_stands_row_by_row():
    """Rows become lists of fields, without the empty ones."""
    found = lines(25)
    assert found[0].split() == ["ID", "1"]
    assert "ERROR" not in "".join(found[-3:])


def test_a_column_with_nothing_in_it_is_left_out():
    """Optional columns without values are left out."""
    assert lines(80, [["1", "ready", "-", ""]])[0].split() == ["ID", "STATE", "RUN"]


def test_a_message_cannot_write_to_the_terminal():
    """Errors may contain text from elsewhere."""
    assert describe(MeshHookError("a\x1b[31mb\nc")) == "error: a\\x1b[31mb\nc"


def test_an_error_of_nobody_is_called_a_bug():
    """The message says how to get the traceback."""
    text = describe(ZeroDivisionError("division by zero"))
    assert "ZeroDivisionError" in text
    assert "MESHHOOK_LOG_LEVEL=debug" in text
    assert exit_code(ZeroDivisionError()) is ExitCode.FAILED


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DatabaseError("x"), ExitCode.FAILED),
        (DatabaseUnavailableError("x"), ExitCode.NO_DATABASE),
        (UncertainCommitError("x"), ExitCode.FAILED),
        (PartlyDoneError("x", DatabaseUnavailableError("x")), ExitCode.FAILED),
        (PartlyDoneError("x", InvalidJobError("x")), ExitCode.BAD_INPUT),
        (PartlyDoneError("x", KeyboardInterrupt()), ExitCode.INTERRUPTED),
    ],
)
def test_no_database_means_that_nothing_was_done(error, code):
    """If something may have been done, the code is another."""
    assert exit_code(error) is code


def test_every_error_of_the_library_has_a_code():
    """Bad input and failures of the database have different codes."""
    for name, kind in vars(errors).items():
        if (
            isinstance(kind, type)
            and issubclass(kind, ValueError)
            and name not in {"InvalidPayloadError", "UrlRefusedError"}  # of handlers, not commands
        ):
            assert any(issubclass(kind, known) for known, _ in failures._CODES), name
