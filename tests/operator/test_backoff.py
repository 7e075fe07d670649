"""How long databases that cannot be reached are left alone, and in which order Secrets are read."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from meshhook_operator.api.jobqueue import ObjectKey
from meshhook_operator.databases import registry, wakeups
from meshhook_operator.databases.registry import backoff_seconds
from meshhook_operator.databases.wakeups import WakeUps
from meshhook_operator.secrets import DatabaseSecrets, FoundAddress, SecretReference
from support.waiting import eventually


def test_the_pause_doubles_up_to_a_limit():
    """The first three failures may be a restart; an outage of days is tried every 30 seconds."""
    pauses = [backoff_seconds(failures, 1.0, spread=0.0) for failures in range(10)]
    assert pauses == [0, 0, 0, 0, 2, 4, 8, 16, 30, 30]
    assert backoff_seconds(1_000_000, 1.0, spread=0.0) == registry.MAX_BACKOFF_SECONDS
    assert backoff_seconds(1_000_000, 0.1, spread=0.0) == registry.MAX_BACKOFF_SECONDS


def test_a_part_of_the_pause_is_left_to_chance():
    """Databases that went away together are not tried again together, and none later than that."""
    assert backoff_seconds(20, 1.0, spread=1.0) == 22.5
    assert 22.5 < backoff_seconds(20, 1.0, spread=0.5) < 30
    assert backoff_seconds(3, 1.0, spread=0.5) == 0


async def test_listening_is_tried_again_less_and_less(monkeypatch):
    """After 3.75 to 5 seconds, later after 45 to 60."""
    pauses: list[float] = []
    are_enough = asyncio.Event()
    waited = asyncio.sleep

    async def refuse(*_: object, **__: Any) -> None:
        raise OSError

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 100:
            are_enough.set()
        await waited(0)

    monkeypatch.setattr(wakeups, "connect", refuse)
    monkeypatch.setattr(asyncio, "sleep", note)
    wake_ups = WakeUps("postgresql://db/app", lambda _: None)
    wake_ups.want(frozenset({"jobs"}))
    await are_enough.wait()
    await wake_ups.close()
    longest = [5, 10, 20, 40, *[60] * 96]
    assert all(0.75 * most <= pause <= most for most, pause in zip(longest, pauses, strict=False))


async def test_nobody_listens_for_queues_that_want_no_wake_up(monkeypatch):
    """A database that cannot be reached is not tried for queues that are not waiting."""
    attempts: list[str] = []

    async def refuse(url: str, **_: Any) -> None:
        attempts.append(url)
        raise OSError

    monkeypatch.setattr(wakeups, "connect", refuse)
    monkeypatch.setattr(wakeups, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(wakeups, "MAX_RETRY_SECONDS", 0.001)
    wake_ups = WakeUps("postgresql://db/app", lambda _: None)
    wake_ups.want(frozenset({"jobs"}))
    await eventually(lambda: len(attempts) > 3)
    wake_ups.want(frozenset())
    await eventually(lambda: wake_ups._changed._waiters)  # it waits for queues, not for a time
    tried = len(attempts)
    wake_ups.want(frozenset({"jobs"}))
    await eventually(lambda: len(attempts) > tried)
    await wake_ups.close()


class SlowSecrets:
    """The API's Secrets; those that are read again take until the end of the test."""

    def __init__(self) -> None:
        self.read: set[ObjectKey] = set()
        self.held: list[ObjectKey] = []
        self.may_end = asyncio.Event()

    async def read_secret(self, key: ObjectKey) -> dict[str, str]:
        """Return a URL, at once if it is the first time."""
        if key in self.read:
            self.held.append(key)
            await self.may_end.wait()
        self.read.add(key)
        return {"uri": f"postgresql://db/{key.name}"}


async def test_a_new_secret_does_not_wait_for_those_that_are_read_again():
    """URLs that do not work are read again and again, as they may have been corrected."""
    secrets, now = SlowSecrets(), [1_000.0]
    bad = [
        SecretReference(ObjectKey("shop", f"bad-{index}"), "uri", pooled=False)
        for index in range(50)
    ]
    good = SecretReference(ObjectKey("shop", "good"), "uri", pooled=False)
    async with asyncio.TaskGroup() as tasks:
        book = DatabaseSecrets(
            cast("Any", secrets), tasks, on_change=lambda _: None, clock=lambda: now[0]
        )
        await eventually(lambda: all(isinstance(book.look_up(one), FoundAddress) for one in bad))
        now[0] += 1_000
        for each in bad:
            book.look_up(each)
        await eventually(lambda: secrets.held)
        await eventually(lambda: isinstance(book.look_up(good), FoundAddress))
        assert len(secrets.held) < len(bad)
        secrets.may_end.set()
