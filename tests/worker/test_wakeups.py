"""How a fleet answers wake-ups, simulated."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshhook.worker.wakeups import WakeDelay

CLAIM_SECONDS = 0.001


@dataclass
class Answer:
    """What came of one notification."""

    claims: int
    waited_seconds: float
    winner: int


def answers(workers: int, notifications: int, *, busy: float = 0.0) -> list[Answer]:
    """Let idle workers answer notifications that come one after the other.

    A worker claims when its wait is over. The first gets the message; the others find nothing.
    A share `busy` of the slots of worker 0 is taken.
    """
    fraction = random.Random(7).random
    fleet = [WakeDelay(workers=workers) for _ in range(workers)]
    found: list[Answer] = []
    for _ in range(notifications):
        waits = [
            delay.seconds(fraction(), busy if number == 0 else 0.0)
            for number, delay in enumerate(fleet)
        ]
        winner = min(range(workers), key=waits.__getitem__)
        for number, delay in enumerate(fleet):
            delay.found(1 if number == winner else 0)
        at_once = sum(wait < waits[winner] + CLAIM_SECONDS for wait in waits)
        found.append(Answer(at_once, waits[winner], winner))
    return found


def test_a_worker_alone_never_waits() -> None:
    """Not even after it was woken for nothing, as by a delayed job."""
    delay = WakeDelay()
    for messages in (0, 0, 1, 0):
        delay.found(messages)
        assert delay.seconds(0.999, 1.0) == 0.0


@pytest.mark.parametrize("workers", [2, 16, 128])
def test_few_of_a_fleet_claim_at_the_same_moment(workers: int) -> None:
    """Once it has sorted itself, a handful claim together, and the first of them soon."""
    settled = answers(workers, 400)[100:]
    assert sum(answer.claims for answer in settled) / len(settled) <= 3
    assert sum(answer.waited_seconds for answer in settled) / len(settled) <= 0.002


def test_a_busy_worker_leaves_messages_to_idle_ones() -> None:
    """A worker whose slots are nearly full gets less than its part of them."""
    won = sum(answer.winner == 0 for answer in answers(8, 400, busy=0.9))
    assert won < 400 / 8


@given(
    workers=st.integers(1, 1000),
    found=st.lists(st.integers(0, 2), max_size=40),
    fraction=st.floats(0, 1, exclude_max=True),
    utilisation=st.floats(0, 1),
)
def test_the_wait_is_bounded(
    workers: int, found: list[int], fraction: float, utilisation: float
) -> None:
    """At most a millisecond a worker, and ten for being busy."""
    delay = WakeDelay(workers=workers)
    for messages in found:
        delay.found(messages)
    assert 0 <= delay.seconds(fraction, utilisation) <= (workers - 1) * 0.001 + 0.01


def test_a_fleet_that_shrinks_waits_less() -> None:
    """The limit follows the number of workers."""
    delay = WakeDelay(workers=100)
    for _ in range(20):
        delay.found(0)
    delay.workers = 2
    assert delay.seconds(0.999, 0.0) <= 0.001
