"""The attempts of the last hour by queue and minute, from the blocks of the history's table.

No index leads to attempts by time, and one for this chart would cost each settlement. But rows are
appended about when attempts end, so the last hour stands at the end of the day's partition. It is
read from the end back, a chunk of blocks at a time, for all queues at once. A chunk that is full is
read a few more times, since a connection that writes little goes on in its block after others were
begun; then it is kept. What follows is the decision alone: which chunk is next, and what is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

MINUTES = 60
"""How many minutes are counted; the present one is the last."""
CHUNK_BLOCKS = 1_024
"""How many blocks are read at once: some 50,000 attempts, in less than a tenth of a second."""
OPEN_SECONDS = 25.0
"""After how long a chunk is read anew that still grows."""
CLOSING_SECONDS = (60.0, 300.0, 900.0)
"""How long after a chunk was full it is read again; after the last time it is kept."""


@dataclass(frozen=True, slots=True)
class Part:
    """The attempts of one day, as they stand in a file."""

    day: datetime
    """When the day begins."""
    file: int
    """The file; another one if the table was written anew."""
    blocks: int
    """How long the file is."""


@dataclass(frozen=True, slots=True)
class Count:
    """What attempts came to."""

    retried: int = 0
    dead_lettered: int = 0
    attempts: int = 0

    def __add__(self, other: Count) -> Count:
        """Return both together."""
        return Count(
            self.retried + other.retried,
            self.dead_lettered + other.dead_lettered,
            self.attempts + other.attempts,
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """Blocks that are to be read: from `first` to below `end`."""

    part: Part
    number: int

    @property
    def first(self) -> int:
        """The first block."""
        return self.number * CHUNK_BLOCKS

    @property
    def end(self) -> int:
        """The block after the last one."""
        return self.first + CHUNK_BLOCKS

    @property
    def is_full(self) -> bool:
        """Whether blocks after it have been begun."""
        return self.part.blocks > self.end


@dataclass(slots=True)
class _Read:
    read_at: float
    full_at: float | None
    """When it was full, at the latest; None if it still grew when it was read."""
    oldest: int | None
    newest: int | None
    """The first and the last minute with attempts in it that counted when it was read."""
    counts: dict[str, dict[int, Count]]

    def is_due(self, now: float) -> bool:
        if self.full_at is None:
            return now - self.read_at >= OPEN_SECONDS
        return any(self.read_at < self.full_at + each <= now for each in CLOSING_SECONDS)


def first_minute(now: float) -> int:
    """Return the first of the minutes that count, from 1970 on."""
    return int(now // 60) - MINUTES + 1


class MinuteCounts:
    """What has been read of the last hour."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._read: dict[tuple[datetime, int, int], _Read] = {}

    def next_chunk(self, parts: Sequence[Part], now: float) -> Chunk | None:
        """Return what to read next of parts, the newest first; None if nothing is due.

        Chunks before the last hour, and those of parts that are gone, are forgotten.
        """
        first = first_minute(now)
        needed = set()
        for part in parts:
            for number in range((part.blocks - 1) // CHUNK_BLOCKS, -1, -1):
                key = (part.day, part.file, number)
                read = self._read.get(key)
                if read is None or read.is_due(now):
                    return Chunk(part, number)
                needed.add(key)
                if read.newest is None or read.newest < first:
                    break  # all that was written before is older still
        self._read = {key: read for key, read in self._read.items() if key in needed}
        return None

    def note(
        self, chunk: Chunk, counts: Iterable[tuple[str | None, int | None, Count]], now: float
    ) -> None:
        """Take what a chunk holds, in place of what was known of it.

        Args:
            chunk: what was read.
            counts: a queue, a minute, and what its attempts came to; no queue and no minute for
                attempts from before the hour.
            now: when the length of its part was read.
        """
        key = (chunk.part.day, chunk.part.file, chunk.number)
        before = self._read.get(key)
        by_queue: dict[str, dict[int, Count]] = {}
        minutes = set()
        for queue, minute, count in counts:
            if queue is not None and minute is not None:
                by_queue.setdefault(queue, {})[minute] = count
                minutes.add(minute)
        newest = max(minutes, default=None)
        full_at = None
        if before is not None and before.full_at is not None:
            full_at = before.full_at
        elif chunk.is_full:
            full_at = float("-inf") if newest is None else min(now, (newest + 1) * 60.0)
        self._read[key] = _Read(now, full_at, min(minutes, default=None), newest, by_queue)

    def of_queue(self, queue: str, now: float) -> dict[int, Count]:
        """Return what is known of the minutes of the last hour of a queue."""
        first = first_minute(now)
        found: dict[int, Count] = {}
        for read in self._read.values():
            for minute, count in read.counts.get(queue, {}).items():
                if minute >= first:
                    found[minute] = found.get(minute, Count()) + count
        return found

    def covered_from(self, parts: Sequence[Part], now: float) -> int:
        """Return from which minute on all is known, as far as the parts go back."""
        covered = int(now // 60) + 1
        first = first_minute(now)
        for part in parts:
            for number in range((part.blocks - 1) // CHUNK_BLOCKS, -1, -1):
                read = self._read.get((part.day, part.file, number))
                if read is None:
                    return max(first, covered)
                if read.newest is None or read.newest < first:
                    break
                # The chunk before may hold more of the same minute.
                covered = min(covered, (read.oldest or first) + 1)
        return first


def larger(one: Mapping[int, Count], other: Mapping[int, Count]) -> dict[int, Count]:
    """Return for each minute the count that found more: each may miss some, none counts twice."""
    nothing = Count()
    return {
        minute: max(
            one.get(minute, nothing), other.get(minute, nothing), key=lambda each: each.attempts
        )
        for minute in one.keys() | other.keys()
    }
