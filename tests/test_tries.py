"""Trying again: after pauses that grow, for the errors that are worth it, and said in the log."""

from __future__ import annotations

import asyncio
import logging

import pytest

from meshhook.postgres.tries import tries


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that would have been made, in seconds."""
    made: list[float] = []

    async def sleep(seconds: float) -> None:
        made.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return made


async def run(failures: int, error: type[Exception] = OSError, **options: object) -> int:
    """Fail so many times, and return how many tries there were."""
    made = 0
    async for attempt in tries(on=OSError, **options):  # type: ignore[arg-type]
        with attempt:
            made += 1
            if made <= failures:
                raise error(f"failure {made}")
    return made


async def test_what_succeeds_is_done_once(pauses):
    """With no pause."""
    assert await run(0) == 1
    assert pauses == []


async def test_pauses_double_up_to_the_longest(pauses):
    """Less up to half of each, by chance."""
    assert await run(6, first_pause_seconds=1, max_pause_seconds=10) == 7
    for pause, longest in zip(pauses, [1, 2, 4, 8, 10, 10], strict=True):
        assert longest / 2 <= pause <= longest


async def test_the_last_error_is_raised(pauses):
    """After as many tries as there may be."""
    with pytest.raises(OSError, match="failure 3"):
        await run(9, limit=3)
    assert len(pauses) == 2


async def test_there_is_no_try_after_the_deadline(pauses):
    """Nor a pause that would end behind it."""
    with pytest.raises(OSError, match="failure 1"):
        await run(9, timeout_seconds=5, first_pause_seconds=60, max_pause_seconds=60)
    assert pauses == []


async def test_another_error_is_not_worth_a_try(pauses):
    """It is raised at once."""
    with pytest.raises(KeyError):
        await run(1, KeyError)
    assert pauses == []


@pytest.mark.usefixtures("pauses")
async def test_each_is_said_in_the_log_and_nowhere_else(caplog, capsys):
    """With what it was about, and why."""
    await run(2, queue="orders", step="claim")
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    first = caplog.records[0]
    assert (first.event, first.queue, first.step) == (
        "failed, and is tried again",
        "orders",
        "claim",
    )
    assert (first.tries, first.error) == (1, "failure 1")
    assert capsys.readouterr() == ("", "")
