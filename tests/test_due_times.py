"""Due times: time zones, both nights when clocks change, and missed times."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshhook.due_times import (
    MAX_COUNTED,
    MAX_FIRED_BYTES,
    MAX_FIRINGS,
    Firing,
    Missed,
    Timetable,
    checked_cron,
    checked_every,
    checked_zone,
    most_at_once,
    plan,
)
from meshhook.errors import InvalidSettingError
from support.fuzzing import examples

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Santiago",  # clocks change at midnight, in the southern hemisphere
    "Australia/Sydney",
    "Australia/Lord_Howe",  # half an hour
    "Asia/Kolkata",
    "Pacific/Apia",  # it left out a day in 2011
)
CRONS = (
    "* * * * *",
    "*/7 * * * *",
    "0 * * * *",
    "30 2 * * *",
    "0,30 1-3 * * *",
    "15 0 * * 1-5",
    "0 0 L * *",
    "59 23 1 */3 *",
    "0 12 * * MON#2",
    "5 4 13 * 5",
)
SECONDS_OF_20_YEARS = 20 * 366 * 86_400
MOMENTS = st.floats(0, SECONDS_OF_20_YEARS).map(
    lambda seconds: datetime(2011, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)


def at(text: str) -> datetime:
    """Return a moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def due(cron: str, zone: str, after: str, count: int) -> list[str]:
    """Return the first due times after a moment, in UTC."""
    times = islice(Timetable.of(cron, None, zone).all_after(at(after)), count)
    return [f"{each:%m-%d %H:%M}" for each in times]


@pytest.mark.parametrize(
    ("zone", "after", "gap"),
    [
        ("Europe/Berlin", "2026-03-28T12:00", ["03-29 01:00", "03-30 00:30"]),
        ("America/New_York", "2026-03-07T12:00", ["03-08 07:00", "03-09 06:30"]),
        ("Australia/Sydney", "2026-10-03T00:00", ["10-03 16:00", "10-04 15:30"]),
    ],
)
def test_a_time_that_is_skipped_is_due_once_after_the_gap(
    zone: str, after: str, gap: list[str]
) -> None:
    """In both hemispheres: 2:30 does not exist that night, and 3:00 is the first that does."""
    assert due("30 2 * * *", zone, after, 2) == gap


@pytest.mark.parametrize(
    ("zone", "after", "times"),
    [
        ("Europe/Berlin", "2026-10-24T12:00", ["10-25 00:30", "10-26 01:30"]),
        ("America/New_York", "2026-10-31T12:00", ["11-01 06:30", "11-02 07:30"]),
        ("Australia/Sydney", "2026-04-04T00:00", ["04-04 15:30", "04-05 16:30"]),
    ],
)
def test_a_time_that_comes_twice_is_due_once(zone: str, after: str, times: list[str]) -> None:
    """At its first passage, also when looked at between the two."""
    cron = "30 1 * * *" if zone == "America/New_York" else "30 2 * * *"
    if zone == "America/New_York":
        times = ["11-01 05:30", "11-02 06:30"]
    assert due(cron, zone, after, 2) == times
    first = at(f"2026-{times[0].replace(' ', 'T')}")
    for minutes in range(1, 120):
        moment = first + timedelta(minutes=minutes)
        assert due(cron, zone, f"{moment:%Y-%m-%dT%H:%M}", 1) == times[1:], moment


def test_times_of_an_interval_are_due_in_both_hours() -> None:
    """Each quarter of an hour passes on those nights as on others."""
    spring = due("*/15 * * * *", "Europe/Berlin", "2026-03-29T00:30", 4)
    assert spring == ["03-29 00:45", "03-29 01:00", "03-29 01:15", "03-29 01:30"]
    autumn = due("*/30 * * * *", "Europe/Berlin", "2026-10-24T23:30", 6)
    assert autumn == [
        *("10-25 00:00", "10-25 00:30", "10-25 01:00", "10-25 01:30", "10-25 02:00", "10-25 02:30")
    ]
    south = due("0 * * * *", "Australia/Sydney", "2026-04-04T14:30", 3)
    assert south == ["04-04 15:00", "04-04 16:00", "04-04 17:00"]


@pytest.mark.parametrize(
    ("cron", "fits"),
    [
        ("40 * * * *", lambda local: local.minute == 40),
        ("*/10 5 * * *", lambda local: local.hour == 5 and local.minute % 10 == 0),
        ("* 2,3 * * *", lambda local: local.hour in {2, 3}),
        ("*/7 0 * * SUN", lambda local: (local.hour, local.isoweekday()) == (0, 7)
            and local.minute % 7 == 0),
        ("0 */2 * * *", lambda local: local.minute == 0 and local.hour % 2 == 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("zone", "night"),
    [
        ("Australia/Lord_Howe", "2026-10-04"),  # 2:00 becomes 2:30
        ("Australia/Lord_Howe", "2026-04-05"),  # 2:00 becomes 1:30
        ("America/Caracas", "2016-05-01"),  # 2:30 becomes 3:00
        ("America/Santiago", "2026-09-06"),  # a Sunday without its first hour
        ("America/Santiago", "2026-04-05"),  # 24:00 becomes 23:00
        ("America/Havana", "2026-11-01"),  # 1:00 becomes 0:00
        ("Africa/Casablanca", "2026-02-15"),  # back for Ramadan
        ("Antarctica/Troll", "2026-03-29"),  # two hours
        ("Asia/Gaza", "2012-03-30"),  # 0:00 becomes 1:00
    ],
)
def test_no_minute_that_exists_is_left_out(
    zone: str, night: str, cron: str, fits: Callable[[datetime], bool]
) -> None:
    """Around each change of clocks, whether by an hour, half an hour or two, and in both hours."""
    start = at(night) - timedelta(hours=36)
    minutes = [start + timedelta(minutes=n) for n in range(1, 72 * 60)]
    expected = [each for each in minutes if fits(each.astimezone(ZoneInfo(zone)))]
    table = Timetable.of(cron, None, zone)
    assert list(islice(table.all_after(start), len(expected))) == expected
    # It does not matter when one looks.
    for one, other in pairwise(expected[::7]):
        assert table.next_after(other - timedelta(seconds=1)) == other, one


def test_a_time_of_day_is_that_of_the_zone_all_year() -> None:
    """9:00 in Berlin is 8:00 UTC in winter, 7:00 in summer; without a midnight, it is 1:00."""
    assert due("0 9 * * *", "Europe/Berlin", "2026-03-27T12:00", 3) == [
        *("03-28 08:00", "03-29 07:00", "03-30 07:00")
    ]
    assert due("0 0 * * *", "America/Santiago", "2026-09-05T12:00", 2) == [
        *("09-06 04:00", "09-07 03:00")
    ]


def test_an_interval_has_fixed_places() -> None:
    """Its multiples since 1970, whenever one looks."""
    hours = Timetable.of(None, 6 * 3600, "UTC")
    assert hours.next_after(at("2026-11-30T06:00")) == at("2026-11-30T12:00")
    assert hours.next_after(at("2026-11-30T05:59:59.999999")) == at("2026-11-30T06:00")
    assert hours.next_after(at("1969-12-31T23:00")) == at("1970-01-01T00:00")


@examples(60)
@given(cron=st.sampled_from(CRONS), zone=st.sampled_from(ZONES), moment=MOMENTS)
def test_due_times_never_go_backwards(cron: str, zone: str, moment: datetime) -> None:
    """Each is later than the one before, and what is due next does not depend on when one looks."""
    table = Timetable.of(cron, None, zone)
    times = list(islice(table.all_after(moment), 20))
    assert all(one < other for one, other in zip([moment, *times], times, strict=False))
    for one, other in pairwise(times):
        assert table.next_after(one) == other
        assert table.next_after(one + (other - one) / 2) == other


@examples(40)
@given(
    cron=st.sampled_from(CRONS),
    zone=st.sampled_from(ZONES),
    moment=MOMENTS,
    missed=st.sampled_from(Missed),
    late=st.timedeltas(timedelta(0), timedelta(hours=30)),
)
def test_a_plan_leaves_no_due_time_behind_and_takes_none_twice(
    cron: str, zone: str, moment: datetime, missed: Missed, late: timedelta
) -> None:
    """Whatever the policy: what it sends is due, and what comes next is the first that is not."""
    table = Timetable.of(cron, None, zone)
    next_at = table.next_after(moment)
    assert next_at is not None
    now = next_at + late
    found = plan(table, next_at=next_at, now=now, missed=missed)
    all_due = [next_at, *_until(table, next_at, now, 2_000)]
    assert set(found.due) <= set(all_due)
    assert list(found.due) == sorted(set(found.due))
    if missed is Missed.ALL:
        assert list(found.due) == all_due[:MAX_FIRINGS]
        assert found.following == table.next_after(found.due[-1])
        return
    assert found.following == table.next_after(now)
    assert found.due[-1] == all_due[-1]
    grace = timedelta(seconds=5 if missed is Missed.ONCE else 60)
    in_time = [each for each in all_due if each >= now - grace]
    assert list(found.due) == (in_time or all_due[-1:])
    assert found.is_sent == (bool(in_time) or missed is Missed.ONCE)
    assert found.missed == min(len(all_due) - len(in_time), MAX_COUNTED) - (0 if in_time else 1)


def _until(table: Timetable, moment: datetime, now: datetime, most: int) -> list[datetime]:
    found: list[datetime] = []
    for each in islice(table.all_after(moment), most):
        if each > now:
            break
        found.append(each)
    return found


def test_missed_minutes() -> None:
    """Ten minutes without a worker: one job, none, or eleven; one that is in time gets its own."""
    table = Timetable.of("* * * * *", None, "UTC")
    start, now = at("2026-11-30T08:00"), at("2026-11-30T08:10:30")
    last, following = at("2026-11-30T08:10"), at("2026-11-30T08:11")
    assert plan(table, next_at=start, now=now, missed="once") == Firing(
        (last,), following, missed=10
    )
    # The last one is 30 seconds late: in time for `skip`.
    assert plan(table, next_at=start, now=now, missed="skip") == Firing(
        (last,), following, missed=10
    )
    every = plan(table, next_at=start, now=now, missed="all")
    assert (len(every.due), every.following, every.missed) == (11, following, 0)
    hours = Timetable.of("0 * * * *", None, "UTC")
    skipped = plan(hours, next_at=start, now=now, missed="skip")
    assert skipped == Firing((start,), at("2026-11-30T09:00"), is_sent=False)


def test_a_schedule_starts_when_it_was_added() -> None:
    """What was due before a worker looked for the first time is found by the next look."""
    table = Timetable.of("* * * * *", None, "UTC")
    added_at, now = at("2026-11-30T08:59:55"), at("2026-11-30T09:00:03")
    found = plan(table, next_at=None, now=now, missed="once", since=added_at)
    assert found == Firing((), at("2026-11-30T09:00"))
    assert plan(table, next_at=found.following, now=now, missed="once").due == (found.following,)
    assert plan(table, next_at=None, now=now, missed="once").following == at("2026-11-30T09:01")


def test_few_large_messages_at_once() -> None:
    """Up to 4 MB of them, and a hundred; always one."""
    assert most_at_once(50) == MAX_FIRINGS
    assert most_at_once(1024 * 1024) == 4
    assert most_at_once(20 * MAX_FIRED_BYTES) == 1
    table = Timetable.of("* * * * *", None, "UTC")
    start, now = at("2026-11-30T08:00"), at("2026-11-30T09:00")
    found = plan(table, next_at=start, now=now, missed="all", most=4)
    four = tuple(start + timedelta(minutes=n) for n in range(4))
    assert found == Firing(four, at("2026-11-30T08:04"))


def test_a_clock_that_is_set_back_makes_nothing_due() -> None:
    """The next due time stays where it is."""
    table = Timetable.of("0 * * * *", None, "UTC")
    next_at = at("2026-11-30T09:00")
    found = plan(table, next_at=next_at, now=at("2026-11-30T07:30"), missed="all")
    assert found == Firing((), next_at)


def test_years_without_a_worker_take_no_time() -> None:
    """A due time a second for thirty years is not counted through."""
    table = Timetable.of(None, 1, "UTC")
    found = plan(table, next_at=at("1996-01-01"), now=at("2026-01-01"), missed="once")
    assert len(found.due) == 6
    assert found.missed == MAX_COUNTED
    minutes = Timetable.of("* * * * *", None, "Europe/Berlin")
    found = plan(minutes, next_at=at("2000-01-01"), now=at("2026-01-01T00:00:30"), missed="once")
    assert (found.due, found.missed) == ((at("2026-01-01"),), MAX_COUNTED - 1)


@pytest.mark.parametrize(
    ("cron", "reason"),
    [
        ("61 * * * *", "'61 * * * *': bad minute"),
        ("* * * * FOO", "bad day-of-week"),
        ("* * * *", "it has 4 fields"),
        ("* * * * * *", "it has 6 fields"),
        ("0 0 30 2 *", "bad day-of-month"),
        ("1#2/3 * * * *", "'1#2/3"),
        ("* * * * 1#2/3", "1#2/3"),
        ("", "1 to 200 characters"),
        ("* " * 200, "1 to 200 characters"),
        (7, "1 to 200 characters"),
        ("@reboot", "it has 1 fields"),
    ],
)
def test_a_bad_expression_is_named(cron: Any, reason: str) -> None:
    """The error has the expression and what is wrong with it."""
    with pytest.raises(InvalidSettingError) as raised:
        checked_cron(cron)
    assert reason in str(raised.value)


def test_words_and_spaces() -> None:
    """Shorthands are understood, in either case, and fields may stand apart."""
    assert checked_cron("@daily") == "0 0 * * *"
    assert checked_cron(" 0   9 * * mon-fri ") == "0 9 * * mon-fri"


@pytest.mark.parametrize(
    "zone",
    [*("Mars/Olympus", "", "Europe", "../../etc/passwd", "/etc/localtime"), "localtime", "a\0b", 7],
)
def test_an_unknown_zone_is_named(zone: Any) -> None:
    """So is a folder, a path that leads elsewhere, and whatever this machine is set to."""
    with pytest.raises(InvalidSettingError, match=r"time zone .* is not known"):
        checked_zone(zone)


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "60", None, float("nan"), float("inf"), 1e9])
def test_an_interval_is_whole_seconds(every: Any) -> None:
    """From one second to 366 days."""
    with pytest.raises(InvalidSettingError, match="every is whole seconds"):
        checked_every(every)
    assert checked_every(timedelta(days=366)) == 366 * 86_400
    assert checked_every(60.0) == 60
