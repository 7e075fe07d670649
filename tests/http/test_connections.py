"""Bounds on connections."""

from __future__ import annotations

import asyncio

from meshhook.http.connections import DestinationSlots, KeptConnections
from support.waiting import eventually


def test_no_more_connections_are_kept_than_allowed() -> None:
    """A destination that has an unused one uses that; others have theirs closed."""
    now = 0.0
    kept = KeptConnections(2, 10, clock=lambda: now)
    assert [kept.take("a"), kept.take("a"), kept.take("b")] == [True, True, False]
    kept.give_back("a", is_open=True)
    assert [kept.take("b"), kept.take("a")] == [False, True]
    kept.give_back("a", is_open=False)
    assert [kept.take("b"), kept.take("b")] == [True, False]


def test_a_connection_whose_time_is_over_makes_room() -> None:
    """The client has closed it by then."""
    now = 0.0
    kept = KeptConnections(1, 10, clock=lambda: now)
    assert kept.take("a")
    kept.give_back("a", is_open=True)
    now = 20.0
    assert not kept.take("b")
    now = 22.0
    assert kept.take("b")


def test_none_are_kept_if_none_may_be() -> None:
    """Each connection serves one delivery."""
    assert not KeptConnections(0, 10).take("a")


async def test_a_destination_has_its_slots() -> None:
    """More deliveries wait for one; other destinations do not; nothing is kept afterwards."""
    slots = DestinationSlots(2)
    release = asyncio.Event()
    running: list[str] = []

    async def deliver(destination: str) -> None:
        async with slots.of(destination):
            running.append(destination)
            await release.wait()

    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(deliver(name)) for name in ("a", "a", "a", "b")]
        await eventually(lambda: len(running) == 3)
        assert sorted(running) == ["a", "a", "b"]
        waiting = started[2]
        waiting.cancel()
        await asyncio.wait([waiting])
        release.set()
    assert len(slots) == 0
