"""What outcomes wait for when others have locked what hangs on their jobs: pure decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshhook.worker.held_job import HeldJob

FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 8.0
MAX_LOCKED_PARTS = 3
"""After how many locked parts in a row the others of a batch are tried later."""


class Hanging(NamedTuple):
    """What the settlement of a job locks beside its message."""

    group_id: str | None = None
    """The group of the job."""
    queues: tuple[str, ...] = ()
    """The queues that its follow-ups go to."""
    key: str | None = None
    """The key of its message, where breakers count or a dead letter holds it."""


NOTHING = Hanging()


def parts_of(batch: Iterable[HeldJob], *, with_keys: bool) -> dict[Hanging, list[HeldJob]]:
    """Return the jobs of a batch by what hangs on them, those on which nothing hangs first.

    Args:
        batch: the jobs.
        with_keys: whether their settlement locks the keys of their messages.
    """
    parts: dict[Hanging, list[HeldJob]] = {NOTHING: []}
    for held in batch:
        settlement = held.settlement
        key = held.share.key if with_keys and held.share is not None else None
        if settlement.group_id is None and not settlement.follow_ups and key is None:
            parts[NOTHING].append(held)
            continue
        queues = tuple(sorted({each.queue for each in settlement.follow_ups}))
        parts.setdefault(Hanging(settlement.group_id, queues, key), []).append(held)
    if not parts[NOTHING]:
        del parts[NOTHING]
    return parts


class LockWaits:
    """What others have locked, and when to try again: after a second, later every eight.

    A try takes as long as a settlement waits for a lock, and everything else waits with it. Times
    are seconds of a monotonic clock, passed in.
    """

    def __init__(self) -> None:
        self._waits: dict[Hanging, tuple[float, float]] = {}

    def __bool__(self) -> bool:
        """Return whether anything is known to be locked."""
        return bool(self._waits)

    def note_locked(self, hanging: Hanging, now: float) -> float:
        """Note that something was locked. Returns after how many seconds to try again."""
        last, _ = self._waits.get(hanging, (FIRST_PAUSE_SECONDS / 2, 0.0))
        pause_seconds = min(2 * last, MAX_PAUSE_SECONDS)
        self._waits[hanging] = pause_seconds, now + pause_seconds
        return pause_seconds

    def note_free(self, hanging: Hanging) -> None:
        """Note that nobody has it locked any more."""
        self._waits.pop(hanging, None)

    def seconds_left(self, hanging: Hanging, now: float) -> float | None:
        """Return how long until it is to be tried again; None if it is not known to be locked."""
        if hanging not in self._waits:
            return None
        return max(0.0, self._waits[hanging][1] - now)
