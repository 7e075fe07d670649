"""The chart of the last hour, over a history that is deep: all of the hour, and few blocks."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from meshhook.console import minute_counts, throughput
from meshhook.console.app import console_app
from meshhook.console.minute_counts import CHUNK_BLOCKS
from meshhook.errors import DatabaseError
from meshhook.postgres.connecting import connect
from meshhook.store import queries
from support.console import visiting
from support.plans import buffers, explained, nodes, scans_of

FILL = """
    insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, run_id, finished_at)
    select $1, n, 1, 'succeeded', 'run-' || n, $2::timestamptz from generate_series(1, $3::int) n
"""
FILL_AGO = FILL.replace("$2::timestamptz", "now() - make_interval(mins => $2)")
FILL_TODAY = FILL.replace(
    "$2::timestamptz", "date_trunc('day', now(), 'UTC') + make_interval(secs => $2 + n / 20.0)"
)
MODES = ["auto", "force_generic_plan", "force_custom_plan"]
TODAY = "date_trunc('day', now(), 'UTC')"


async def totals(visitor: Any, queue: str) -> tuple[int, int]:
    """Return how many attempts the chart says there were, and at most in a minute."""
    page = (await visitor.get(f"/queues/{queue}")).text
    found = re.search(r"last hour: ([\d,]+) in all, at most ([\d,]+) a minute", page)
    assert found is not None, page
    in_all, most = (int(each.replace(",", "")) for each in found.groups())
    return in_all, most


async def test_old_attempts_are_counted_behind_many_new_ones(
    pool: Any, connection: Any, queue_name: str
) -> None:
    """Those of 50 minutes ago are in the chart, and those from before the hour are not."""
    await connection.execute(FILL_AGO, "jobs", 70, 5_000)
    await connection.execute(FILL_AGO, "jobs", 50, 7_000)
    await connection.execute(FILL_AGO, "jobs", 2, 30_000)
    await connection.execute(FILL_AGO, "other", 1, 100)
    async with visiting(pool) as visitor:
        assert await totals(visitor, "jobs") == (37_000, 30_000)
        assert "still being read" not in (await visitor.get("/queues/jobs")).text


async def test_a_low_id_may_end_late(pool: Any, connection: Any, queue_name: str) -> None:
    """Jobs that were put off for long end now, in whatever order, and are counted."""
    await connection.execute(FILL_AGO.replace("1, n, 1", "1, 90000 + n, 1"), "jobs", 70, 30_000)
    await connection.execute(FILL_AGO, "jobs", 1, 50)
    async with visiting(pool) as visitor:
        assert await totals(visitor, "jobs") == (50, 50)


async def test_a_long_history_is_read_step_by_step(
    pool: Any, connection: Any, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each refresh goes on for a while; until all is known, the page says how far it is."""
    monkeypatch.setattr(throughput, "READING_SECONDS", 0.0)  # one chunk a refresh
    monkeypatch.setattr(throughput, "MAX_ATTEMPTS_READ", 10)
    monkeypatch.setattr(minute_counts, "CHUNK_BLOCKS", 40)
    for minutes_ago in (50, 30, 10):
        await connection.execute(FILL_AGO, "jobs", minutes_ago, 5_000)
    shown = []
    async with visiting(pool) as visitor:
        token = await visitor.token()
        for _ in range(6):
            await visitor.post("/queues/jobs/pause", token=token)  # so that all is read anew
            page = (await visitor.get("/queues/jobs")).text
            shown.append(("still being read" in page, (await totals(visitor, "jobs"))[0]))
    assert shown[0][0]
    assert shown[0][1] < 15_000
    assert shown[-1] == (False, 15_000)
    assert [count for _, count in shown] == sorted(count for _, count in shown)


async def test_what_is_added_is_counted_once(
    pool: Any, connection: Any, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An open chunk is read anew, and new ones after it, while the table grows over them."""
    monkeypatch.setattr(throughput, "MAX_ATTEMPTS_READ", 10)
    monkeypatch.setattr(minute_counts, "CHUNK_BLOCKS", 10)
    monkeypatch.setattr(minute_counts, "OPEN_SECONDS", 0.001)
    written = 0
    async with visiting(pool) as visitor:
        token = await visitor.token()
        for count in (300, 300, 5_000, 1, 2_000):
            await connection.execute(FILL_AGO, "jobs", 5, count)
            written += count
            await visitor.post("/queues/jobs/pause", token=token)
            assert (await totals(visitor, "jobs"))[0] == written


async def test_viewers_share_what_is_read(
    pool: Any, connection: Any, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another busy queue is counted from what was read for the first one."""
    monkeypatch.setattr(throughput, "MAX_ATTEMPTS_READ", 10)
    await connection.execute("select meshhook.create_queue('other')")
    await connection.execute(FILL_AGO, "jobs", 5, 500)
    await connection.execute(FILL_AGO, "other", 6, 300)
    async with visiting(pool, refresh_seconds=60) as visitor:
        assert await totals(visitor, "jobs") == (500, 500)
        # Not in what the first viewer's reading has seen, and too early for another one.
        await connection.execute(FILL_AGO, "other", 6, 77)
        assert await totals(visitor, "other") == (300, 300)


@pytest.mark.parametrize("is_analyzed", [True, False])
async def test_each_statement_reads_few_blocks_of_a_deep_history(
    is_analyzed: bool, database_url: str, connection: Any, queue_name: str
) -> None:
    """A chunk is read as blocks of one partition; by index no more than its limit is looked at."""
    await connection.execute(FILL_TODAY, "jobs", 0, 80_000)
    await connection.execute(FILL_TODAY, "other", 5_000, 80_000)
    if is_analyzed:
        await connection.execute("vacuum analyze meshhook.job_attempts")
    statements = {
        # Nearly all ended before the hour: these, too, are looked at no further than the limit.
        "count_recent_attempts": ("'jobs', 1000", 1_000, 300),
        "measure_attempts": ("", 2, 60),
        "count_attempts_of_blocks": (
            f"{TODAY}, '(100,0)', '(200,0)', date_part('epoch', {TODAY})",
            100 * 200,
            160,
        ),
    }
    assert CHUNK_BLOCKS <= 2_000  # 16 MB
    for mode in MODES:
        session = await connect(database_url)
        await session.execute(f"set plan_cache_mode = {mode}")
        for name, (arguments, most_rows, most_buffers) in statements.items():
            await session.execute(f"prepare {name} as {queries.load(name)}")
            async with session.transaction():
                if name == "count_recent_attempts":
                    await session.execute(throughput.BY_INDEX)
                plan = await explained(session, name, arguments)
            case = f"{name}, {mode}: {json.dumps(plan)[:6000]}"
            assert buffers(plan) <= most_buffers, case
            rows = [node["Actual Rows"] * node["Actual Loops"] for node in nodes(plan)]
            assert max(rows) <= most_rows, case
            day = await session.fetchval(f"select to_char({TODAY} at time zone 'UTC', 'YYYYMMDD')")
            if name == "count_attempts_of_blocks":
                assert scans_of(plan, f"job_attempts_{day}") == {"Tid Range Scan"}, case
        await session.close()


async def test_a_role_without_the_history_is_told(
    database_url: str, connection: Any, queue_name: str
) -> None:
    """What the database refuses is named, with the way out, and is no fault of the console."""
    await connection.execute("create role test_blind; grant usage on schema meshhook to test_blind")
    session = await connect(database_url)
    try:
        await session.execute("set role test_blind")
        console = console_app(session).state.console
        with pytest.raises(DatabaseError, match="permission denied for table job_attempts"):
            await throughput.read_throughput(console, queue_name)
    finally:
        await session.close()
        await connection.execute("drop owned by test_blind; drop role test_blind")
