"""Traces of errors: with what led to them, unless that is so much that it would block a worker."""

from __future__ import annotations

import logging
import traceback
from typing import Any

import pytest

from meshhook.observability import logs
from meshhook.observability.tracebacks import MAX_ERRORS, is_short, trace_of
from meshhook.outcomes import AttemptOutcome
from meshhook.queue_config import QueueSettings
from meshhook.worker.attempt import log_end
from meshhook.worker.verdicts import verdict
from support.claimed_jobs import claimed_job


def raises(error: BaseException) -> None:
    """Raise an error."""
    raise error


def raised(error: BaseException) -> BaseException:
    """Return an error with frames."""
    try:
        raises(error)
    except BaseException as caught:  # noqa: BLE001 - whatever it is
        return caught
    raise AssertionError


def chain(length: int, *, is_cause: bool) -> BaseException:
    """Return an error to which so many others led."""
    error: BaseException = ValueError("first")
    for _ in range(length):
        later = ValueError("later")
        if is_cause:
            later.__cause__ = error
        else:
            later.__context__ = error
        error = later
    return raised(error)


LONG = {
    "causes": lambda: chain(5_000, is_cause=True),
    "contexts": lambda: chain(5_000, is_cause=False),
    "a group": lambda: raised(ExceptionGroup("many", [ValueError("later") for _ in range(5_000)])),
    "causes of a member": lambda: raised(BaseExceptionGroup("one", [chain(5_000, is_cause=True)])),
}


def test_a_short_story_is_shown_whole() -> None:
    """As Python shows it."""
    for error in (
        chain(MAX_ERRORS - 1, is_cause=True),
        raised(ExceptionGroup("several", [ValueError("a"), TypeError("b")])),
    ):
        assert is_short(error)
        shown = trace_of(error, error.__traceback__)
        assert shown == "".join(traceback.format_exception(error))


class Counted(traceback.TracebackException):
    """Counts how many errors are read to be shown."""

    made = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        type(self).made += 1
        super().__init__(*arguments, **options)


@pytest.mark.parametrize("make", LONG.values(), ids=LONG.keys())
def test_of_a_long_story_the_end_is_shown(
    make: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the history, in our log and in that of a program: Python would read all, each time."""
    error = make()
    monkeypatch.setattr(Counted, "made", 0)
    monkeypatch.setattr(traceback, "TracebackException", Counted)
    end = verdict(error, attempt=1, settings=QueueSettings(), jitter_fraction=0.5)
    assert end.outcome is AttemptOutcome.RETRIED
    assert end.error_stack is not None
    assert "in raises" in end.error_stack
    assert f"{type(error).__name__}: {error}" in end.error_stack
    assert f"more than {MAX_ERRORS} errors led to it" in end.error_stack
    with caplog.at_level(logging.WARNING):
        log_end(claimed_job(), end, error)
    [record] = caplog.records
    logging.Formatter().format(record)
    assert f"more than {MAX_ERRORS} errors led to it" in logs._trace(error)
    assert Counted.made <= 2 * MAX_ERRORS
