"""The throughput of a queue in the last hour: read from the database, shared by all viewers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshhook.console.charts import MinuteCount, Throughput
from meshhook.console.minute_counts import Count, Part, first_minute, larger
from meshhook.postgres.driver_errors import translated_statement_errors
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from meshhook.console.context import Console

MAX_ATTEMPTS_READ = 20_000
"""How many attempts of a queue are read by index; one with more is counted from the blocks."""
THROUGHPUT_SECONDS = 30.0
"""For how long the attempts that were read by index are kept."""
READING_SECONDS = 0.7
"""After how long no further chunk of blocks is begun; the next refresh goes on."""


BY_INDEX = "set local enable_seqscan = off; set local enable_bitmapscan = off"
"""How the attempts of a queue are read in the order of an index, and none beyond the limit.

A queue that PostgreSQL's statistics do not know yet, of a day that has just begun, is taken for a
small one, of which all attempts would be read and sorted.
"""


@dataclass(frozen=True, slots=True)
class _Reading:
    now: float
    parts: tuple[Part, ...]
    is_complete: bool


async def read_throughput(console: Console, queue: str) -> Throughput:
    """Return the throughput of a queue in the last hour.

    A queue with few attempts since midnight is read by index, and exactly. For one with many, the
    blocks of the history are counted, of all queues at once: over several refreshes, if the hour is
    not known yet.
    """
    rows = await console.snapshots.get(
        ("throughput", queue),
        lambda: _read_by_index(console, queue),
        for_seconds=THROUGHPUT_SECONDS,
    )
    found = {row["minute"]: _count(row) for row in rows if row["minute"] is not None}
    if not rows or not rows[0]["capped"]:
        now = rows[0]["now"] if rows else 0.0
        return _throughput(found, now, first_minute(now), is_reading=False)
    reading = await console.snapshots.get(
        ("history",),
        lambda: _read_on(console),
        for_seconds=console.kept_seconds(),
    )
    return _throughput(
        # A connection that writes little does so in blocks that were counted before; where this
        # shows, the queue has few attempts, which the index has found.
        larger(found, console.minute_counts.of_queue(queue, reading.now)),
        reading.now,
        console.minute_counts.covered_from(reading.parts, reading.now),
        is_reading=not reading.is_complete,
    )


async def _read_by_index(console: Console, queue: str) -> Sequence[asyncpg.Record]:
    async with console.database.transaction() as connection:
        with translated_statement_errors():
            await connection.execute(BY_INDEX)
            rows: Sequence[asyncpg.Record] = await connection.fetch(
                queries.load("count_recent_attempts"), queue, MAX_ATTEMPTS_READ
            )
        return rows


async def _read_on(console: Console) -> _Reading:
    """Read what is due of the history's blocks, as far as there is time."""
    end = time.monotonic() + READING_SECONDS
    rows = await console.database.fetch(queries.load("measure_attempts"))
    now: float = rows[0]["now"]
    parts = tuple(Part(row["day"], row["file"], row["blocks"]) for row in rows)
    counts = console.minute_counts
    while chunk := counts.next_chunk(parts, now):
        found = await console.database.fetch(
            queries.load("count_attempts_of_blocks"),
            chunk.part.day,
            (chunk.first, 0),
            (chunk.end, 0),
            first_minute(now) * 60.0,
        )
        counts.note(chunk, ((row["queue"], row["minute"], _count(row)) for row in found), now)
        if time.monotonic() >= end:
            break
    return _Reading(now, parts, counts.covered_from(parts, now) <= first_minute(now))


def _count(row: asyncpg.Record) -> Count:
    return Count(row["retried"], row["dead_lettered"], row["attempts"])


def _throughput(
    counts: dict[int, Count], now: float, covered_from: int, *, is_reading: bool
) -> Throughput:
    newest, first = int(now // 60), first_minute(now)
    minutes = [
        MinuteCount(
            minutes_ago=newest - minute,
            retried=count.retried,
            dead_lettered=count.dead_lettered,
            attempts=count.attempts,
        )
        for minute, count in sorted(counts.items())
        if first <= minute <= newest
    ]
    return Throughput(
        tuple(minutes), is_reading=is_reading, covered_seconds=now - covered_from * 60.0
    )
