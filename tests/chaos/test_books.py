"""The books notice: each kind of wrong has its count."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from support.chaos.books import Books, Observed
from support.chaos.counts import CLEAN, Counts
from support.chaos.ledger import Ledger
from support.chaos.stored import Stored

Notes = list[tuple[str, str]]
"""Events and details, of job `a`."""

RAN: Notes = [("attempted", "ok"), ("confirmed", "1"), ("started", "1"), ("ended", "1")]


def row(outcome: str, attempt: int = 1, msg_id: int = 1, run_id: str = "a") -> dict[str, Any]:
    """Return a row of the history."""
    return {
        "msg_id": msg_id,
        "outcome": outcome,
        "attempt": attempt,
        "run_id": run_id,
        "worker": "w",
    }


def counts(
    folder: Path,
    notes: Notes,
    *history: dict[str, Any],
    live: tuple[str, ...] = (),
    dead: tuple[str, ...] = (),
    effects: tuple[str, ...] = (),
    **observed: Any,
) -> Counts:
    """Return what the books say of job `a`."""
    ledger = Ledger(folder, "test")
    for event, detail in notes:
        ledger.note(event, "a", detail)
    ledger.close()
    stored: Any = Stored(list(history), list(live), list(dead), list(effects))  # type: ignore[arg-type]
    return Books(Observed(folder, **observed), stored).counts()


DONE = row("succeeded")
WRONG: dict[str, tuple[Notes, list[dict[str, Any]], dict[str, Any]]] = {
    "lost": (RAN[:2], [], {}),
    "left": (RAN[:2], [], {"live": ("a",)}),
    "never_ran": (RAN[:2], [DONE], {}),
    "ended_twice": (RAN, [DONE, DONE], {}),
    "rolled_back_stored": ([("attempted", "ok"), ("rolled_back", "")], [], {"live": ("a",)}),
    "refused_stored": ([("attempted", "ok"), ("refused", ""), ("started", "1")], [], {}),
    "unanswered": ([("attempted", "ok")], [], {}),
    "wrong_endings": (RAN, [row("cancelled")], {}),
    "dead_letters_differ": (RAN, [DONE], {"dead": ("a",)}),
    "effects_without_success": (RAN[:2], [], {"live": ("a",), "effects": ("a",)}),
    "successes_without_effect": ([("attempted", "complete"), *RAN[1:]], [DONE], {}),
    "unexplained_repeats": ([*RAN, *RAN[2:]], [DONE], {}),
    "attempt_gaps": (RAN, [row("succeeded", attempt=2)], {}),
    "metrics_differ": (RAN, [DONE], {"worker_outcomes": {"w": {"succeeded": 2}}}),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_counted(tmp_path: Path, name: str) -> None:
    """Each count rises where its kind of wrong is there."""
    notes, history, rest = WRONG[name]
    assert getattr(counts(tmp_path, notes, *history, **rest), name) == 1


def test_what_is_in_two_places_is_counted(tmp_path: Path) -> None:
    """A job that ended must not be in the queue, nor be there as two messages."""
    found = counts(tmp_path, RAN, DONE, row("retried", msg_id=2), live=("a",), effects=("a", "a"))
    assert (found.ended_and_live, found.stored_twice, found.effects_twice) == (1, 1, 1)


def test_a_job_that_ran_and_ended_is_clean(tmp_path: Path) -> None:
    """Nothing is counted of a job that went the whole way."""
    assert counts(tmp_path, RAN, DONE, worker_outcomes={"w": {"succeeded": 1}}) == CLEAN


@pytest.mark.parametrize(
    ("history", "observed"),
    [
        ([row("lost"), row("succeeded", attempt=2)], {}),
        ([DONE], {"lost_leases": {1}}),
        ([DONE], {"died": {os.getpid()}}),
    ],
    ids=["lost in the history", "lost as its worker says", "its process died"],
)
def test_a_repeat_with_a_reason_is_clean(
    tmp_path: Path, history: list[dict[str, Any]], observed: dict[str, Any]
) -> None:
    """A job may run again where a lease was lost, or a process died."""
    assert counts(tmp_path, [*RAN, *RAN[2:]], *history, **observed) == CLEAN


def test_what_the_database_forgot_is_forgiven(tmp_path: Path) -> None:
    """A job that was confirmed after the backup that was restored may be lost."""
    assert counts(tmp_path, RAN[:2], went_back=(0.0, 1e12)) == CLEAN
