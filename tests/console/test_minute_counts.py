"""Which blocks of the history are read next for the last hour, and when they are kept."""

from __future__ import annotations

from datetime import UTC, datetime

from meshhook.console.charts import MinuteCount, Throughput
from meshhook.console.minute_counts import (
    CHUNK_BLOCKS,
    Chunk,
    Count,
    MinuteCounts,
    Part,
    first_minute,
    larger,
)

DAY = datetime(2026, 12, 1, tzinfo=UTC)
EVE = datetime(2026, 11, 30, tzinfo=UTC)
NOW = 1_000_000 * 60.0 + 30
"""In the middle of the minute 1,000,000."""
MINUTE = 1_000_000


def part(chunks: float, *, day: datetime = DAY, file: int = 1) -> Part:
    """Return a part that is so many chunks long."""
    return Part(day, file, int(chunks * CHUNK_BLOCKS))


def ended(*minutes_ago: int, queue: str = "jobs") -> list[tuple[str | None, int | None, Count]]:
    """Return ten attempts in each of these minutes."""
    return [(queue, MINUTE - each, Count(attempts=10)) for each in minutes_ago]


OLD = [(None, None, Count(attempts=1_000))]


def read_all(
    counts: MinuteCounts, parts: list[Part], now: float, *minutes_ago: int
) -> list[tuple[datetime, int]]:
    """Read what is due, each chunk with a minute, and return which chunks were read."""
    read = []
    left = list(minutes_ago)
    while chunk := counts.next_chunk(parts, now):
        counts.note(chunk, ended(left.pop(0)) if left else OLD, now)
        read.append((chunk.part.day, chunk.number))
    return read


def test_the_hour_is_read_from_the_end_back() -> None:
    """Down to the first chunk from before it, and not what lies below; nothing is read twice."""
    counts = MinuteCounts()
    parts = [part(9.5)]
    assert read_all(counts, parts, NOW, 0, 20, 40) == [(DAY, each) for each in (9, 8, 7, 6)]
    assert counts.of_queue("jobs", NOW).keys() == {MINUTE, MINUTE - 20, MINUTE - 40}
    assert counts.next_chunk(parts, NOW) is None
    assert counts.covered_from(parts, NOW) == first_minute(NOW)


def test_a_chunk_says_its_blocks() -> None:
    """They follow each other without a gap."""
    first, second = Chunk(part(3), 0), Chunk(part(3), 1)
    assert (first.first, first.end, second.first) == (0, CHUNK_BLOCKS, CHUNK_BLOCKS)


def test_the_hour_goes_on_in_the_day_before() -> None:
    """After all of a day that has just begun; a day with no block has none to read."""
    counts = MinuteCounts()
    parts = [part(1.5), part(7.5, day=EVE, file=2)]
    read = read_all(counts, parts, NOW, 0, 10, 20, 30)
    assert read == [(DAY, 1), (DAY, 0), (EVE, 7), (EVE, 6), (EVE, 5)]
    counts = MinuteCounts()
    assert counts.next_chunk([part(0)], NOW) is None
    assert counts.covered_from([part(0)], NOW) == first_minute(NOW)


def test_what_is_known_is_said_while_it_is_read() -> None:
    """The oldest minute of the last chunk may go on in the one below."""
    counts = MinuteCounts()
    parts = [part(5.5)]
    assert counts.covered_from(parts, NOW) == MINUTE + 1
    covered = []
    for minutes in ((0, 1), (2, 1), (2, 59, 58)):
        chunk = counts.next_chunk(parts, NOW)
        assert chunk is not None
        counts.note(chunk, ended(*minutes), NOW)
        covered.append(counts.covered_from(parts, NOW))
    assert covered == [MINUTE, MINUTE - 1, MINUTE - 58]
    assert counts.of_queue("jobs", NOW)[MINUTE - 2] == Count(attempts=20)
    chunk = counts.next_chunk(parts, NOW)
    assert chunk is not None
    counts.note(chunk, OLD, NOW)
    assert counts.covered_from(parts, NOW) == first_minute(NOW)


def test_an_open_chunk_is_read_anew_in_place_of_what_was_known() -> None:
    """Not at once, and its attempts are not counted twice."""
    counts = MinuteCounts()
    assert read_all(counts, [part(0.5)], NOW, 0) == [(DAY, 0)]
    assert read_all(counts, [part(0.6)], NOW + 24) == []
    chunk = counts.next_chunk([part(0.6)], NOW + 25)
    assert chunk is not None
    counts.note(chunk, [("jobs", MINUTE, Count(attempts=15))], NOW + 25)
    assert counts.of_queue("jobs", NOW + 25) == {MINUTE: Count(attempts=15)}


def test_a_full_chunk_is_read_three_times_more_and_then_kept() -> None:
    """One, five and fifteen minutes after it was full, however often is asked."""
    counts = MinuteCounts()
    read_all(counts, [part(0.5)], NOW, 0)
    at = []
    for second in range(0, 1_800, 5):
        chunk = counts.next_chunk([part(1.5)], NOW + second)
        while chunk is not None:
            if chunk.number == 0:
                at.append(second)
            counts.note(chunk, ended(0), NOW + second)
            chunk = counts.next_chunk([part(1.5)], NOW + second)
    assert at[0] == 25
    assert len(at) == 4
    assert [each - at[0] for each in at[1:]] == [60, 300, 900]


def test_a_chunk_of_long_ago_is_read_once() -> None:
    """At a first reading, those that were full long ago are not read again."""
    counts = MinuteCounts()
    parts = [part(3.5)]
    read_all(counts, parts, NOW, 0, 20, 40)
    again = [read_all(counts, parts, NOW + each, 0) for each in range(30, 900, 30)]
    assert {number for each in again for _, number in each} == {3}


def test_minutes_leave_the_hour_and_queues_are_apart() -> None:
    """What is older is not counted any more, and then forgotten."""
    counts = MinuteCounts()
    parts = [part(1.5)]
    chunk = counts.next_chunk(parts, NOW)
    assert chunk is not None
    counts.note(chunk, ended(0, 30) + ended(0, queue="other"), NOW)
    assert counts.of_queue("other", NOW) == {MINUTE: Count(attempts=10)}
    assert counts.of_queue("jobs", NOW + 1_800).keys() == {MINUTE}
    assert counts.of_queue("jobs", NOW + 3_600) == {}
    assert counts.of_queue("none", NOW) == {}


def test_a_table_that_was_written_anew_is_read_anew() -> None:
    """Its blocks are others: what was known of them is dropped."""
    counts = MinuteCounts()
    read_all(counts, [part(2.5)], NOW, 0, 1)
    read_all(counts, [part(0.5, file=2)], NOW, 2)
    assert counts.of_queue("jobs", NOW).keys() == {MINUTE - 2}


def test_the_larger_count_of_a_minute_counts() -> None:
    """Neither way counts an attempt twice, so that the one with more has missed less."""
    one = {1: Count(attempts=5), 2: Count(attempts=1, retried=1)}
    other = {2: Count(attempts=3), 3: Count(attempts=1)}
    assert larger(one, other) == {1: one[1], 2: other[2], 3: other[3]}


def test_the_rate_is_of_the_minutes_that_are_known() -> None:
    """A minute of which only a part was read does not count; nothing known is no rate."""
    minutes = tuple(
        MinuteCount(minutes_ago=each, retried=0, dead_lettered=0, attempts=60) for each in range(5)
    )
    known = Throughput(minutes, is_reading=True, covered_seconds=90.0)
    assert known.per_second == 120 / 90
    assert Throughput(minutes, is_reading=True, covered_seconds=-30.0).per_second is None
