"""The series about keys: what they say and cost, and that nothing else depends on them."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from meshhook import QueueExporter, hold_key, set_key, set_queue_config
from meshhook.observability.queue_series import KEY_FAMILIES
from meshhook.role_kinds import RoleKind
from meshhook.store import queries
from support.roles import Roles

pytestmark = pytest.mark.usefixtures("queue_name")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

SEND = """
    insert into pgmq.q_jobs (vt, message, headers, read_ct)
    select now() - make_interval(secs => $3::float8), '{"tenant": "body"}',
        jsonb_build_object('x-pgmq-group', $1::text), $4::int
    from generate_series(1, $2::int)
"""
OPEN = """
    insert into meshhook.breakers (queue, key, failures, opened_at, openings, probe_at)
    values ('jobs', $1, 5, now() - interval '200 seconds', 3,
        now() + make_interval(secs => $2::float8))
"""


# One reading, however long a busy machine takes.
PATIENT: Any = {"interval_seconds": 3_600, "statement_timeout_seconds": 60}


@pytest.fixture
async def keyed(connection: Connection) -> Connection:
    """A connection to a database whose queue `jobs` is keyed, with no limit yet."""
    await set_queue_config(connection, "jobs", keyed=True)
    return connection


async def send(
    connection: Connection, key: str, jobs: int = 1, *, age_seconds: float = 1, read_ct: int = 0
) -> None:
    """Add messages of a key that have been due for so long, or are leased if that is negative."""
    await connection.execute(SEND, key, jobs, age_seconds, read_ct)


async def series(source: Any) -> dict[str, float]:
    """Return the values of all series about keys of the queue, by name and reason."""
    registry = CollectorRegistry()
    async with QueueExporter(source, registry=registry, **PATIENT) as exporter:
        assert await exporter.collect()
        found = {
            sample.name.removeprefix("meshhook_queue_") + sample.labels.get("reason", ""): sample
            for family in registry.collect()
            for sample in family.samples
            if sample.name in KEY_FAMILIES
        }
    assert all(sample.labels["queue"] == "jobs" for sample in found.values())
    return {name: sample.value for name, sample in found.items()}


def near(seconds: float) -> Any:
    """Return an age that was so long when the messages were sent."""
    return pytest.approx(seconds, abs=30)


async def test_a_queue_without_keys_has_none(connection: Connection) -> None:
    """Its keys are not even asked for."""
    await send(connection, "a")
    assert await series(connection) == {}


async def test_each_is_there_from_the_start(keyed: Connection) -> None:
    """An empty keyed queue has every series, at 0."""
    found = await series(keyed)
    assert set(found.values()) == {0.0}
    assert {name.partition("kept_back")[0] or "kept_back" for name in found} == {
        name.removeprefix("meshhook_queue_") for name in KEY_FAMILIES
    }


async def test_a_key_without_a_running_job_waits(keyed: Connection) -> None:
    """The longest wait is that of a key that gets no turn, not of the one that floods the queue."""
    await send(keyed, "flood", 500, age_seconds=4_000)
    await send(keyed, "flood", 1, age_seconds=-600, read_ct=1)
    await send(keyed, "starved", age_seconds=400)
    await send(keyed, "new")
    found = await series(keyed)
    assert found["longest_key_wait_seconds"] == near(400)
    assert found["keys"] == 3
    assert found["kept_backkey_limit"] == 0


async def test_a_lost_lease_is_not_a_running_job(keyed: Connection) -> None:
    """A key whose worker has died waits from the end of the lease on."""
    await send(keyed, "a", age_seconds=400, read_ct=1)
    assert (await series(keyed))["longest_key_wait_seconds"] == near(400)


@pytest.mark.parametrize(
    "limit",
    ["hold", "breaker", "rate of the key", "rate of all keys", "running", "rate of the queue"],
)
async def test_a_key_that_may_not_start_does_not_wait(keyed: Connection, limit: str) -> None:
    """A hold, a breaker or a limit is in the way; what it keeps back is counted."""
    await send(keyed, "a", 3, age_seconds=400)
    assert (await series(keyed))["longest_key_wait_seconds"] == near(400)
    empty = "insert into meshhook.starts values ('jobs', $1, $2, now() + interval '1 hour')"
    if limit == "hold":
        await hold_key(keyed, "jobs", "a")
    elif limit == "breaker":
        await set_queue_config(keyed, "jobs", breaker_failures=5)
        await keyed.execute(OPEN, "a", 60)
    elif limit == "rate of the key":
        await set_key(keyed, "jobs", "a", max_starts=1)
        await set_queue_config(keyed, "jobs", starts_period_seconds=3_600)
        await keyed.execute(empty, False, "a")
    elif limit == "rate of all keys":
        await set_queue_config(keyed, "jobs", max_starts_per_key=1, starts_period_seconds=3_600)
        await keyed.execute(empty, False, "a")
    elif limit == "running":
        await set_queue_config(keyed, "jobs", max_running=2)
        await send(keyed, "b", 2, age_seconds=-600, read_ct=1)
    else:
        await set_queue_config(keyed, "jobs", max_starts=1, starts_period_seconds=3_600)
        await keyed.execute(empty, True, "")
    found = await series(keyed)
    assert found["longest_key_wait_seconds"] == 0
    kept = {name.removeprefix("kept_back"): n for name, n in found.items() if "kept_back" in name}
    assert sum(kept.values()) == 3
    assert max(kept, key=kept.__getitem__) == {
        "hold": "hold",
        "breaker": "hold",
        "running": "queue_limit",
        "rate of the queue": "queue_limit",
    }.get(limit, "key_limit")


async def test_order_keeps_back(keyed: Connection) -> None:
    """What waits behind a job of its key that runs has a reason of its own, and blocks nothing."""
    await set_queue_config(keyed, "jobs", ordered=True)
    await send(keyed, "a", 3, age_seconds=400)
    await keyed.execute(
        "update pgmq.q_jobs set vt = now() + interval '1 h', read_ct = 1 where msg_id = 1"
    )
    found = await series(keyed)
    assert (found["kept_backorder"], found["kept_backkey_limit"]) == (2, 0)
    assert (found["keys_blocked"], found["oldest_blocked_seconds"]) == (0, 0)


async def test_a_key_is_blocked_by_its_first_job(keyed: Connection) -> None:
    """While that is to be retried, those behind it wait for it; a held key is held instead."""
    await set_queue_config(keyed, "jobs", ordered=True)
    await send(keyed, "later", 1, age_seconds=-3_600)
    for key, age_seconds in (("a", 700), ("b", 400)):
        await send(keyed, key, 1, age_seconds=-3_600)
        await send(keyed, key, 2, age_seconds=age_seconds)
    found = await series(keyed)
    assert (found["keys_blocked"], found["oldest_blocked_seconds"]) == (2, near(700))
    assert found["longest_key_wait_seconds"] == 0
    await hold_key(keyed, "jobs", "a")
    found = await series(keyed)
    assert (found["keys_blocked"], found["oldest_blocked_seconds"]) == (1, near(400))
    await set_queue_config(keyed, "jobs", ordered=False)
    found = await series(keyed)
    assert (found["keys_blocked"], found["oldest_blocked_seconds"]) == (0, 0)


async def test_an_ordered_key_waits_as_long_as_its_first_message(keyed: Connection) -> None:
    """What waits behind a retry is not late; once the retry is due, its own wait counts."""
    await set_queue_config(keyed, "jobs", ordered=True)
    await send(keyed, "a", 2, age_seconds=4_000)
    await keyed.execute(
        "update pgmq.q_jobs set vt = now() + interval '1 hour', read_ct = 1, "
        "headers = headers || '{\"meshhook-settled\": 1}' where msg_id = 1"
    )
    assert (await series(keyed))["longest_key_wait_seconds"] == 0
    await keyed.execute("update pgmq.q_jobs set vt = now() - interval '400 s' where msg_id = 1")
    assert (await series(keyed))["longest_key_wait_seconds"] == near(400)


async def test_holds_and_breakers_are_counted(keyed: Connection) -> None:
    """Those in effect, with the age of what has waited longest behind them."""
    await set_queue_config(keyed, "jobs", breaker_failures=5)
    await send(keyed, "a", age_seconds=700)
    await send(keyed, "b", age_seconds=900)
    await hold_key(keyed, "jobs", "a")
    await hold_key(keyed, "jobs", "idle", 600)
    await keyed.execute("update meshhook.keys set held_until = now() where key = 'none'")
    await keyed.execute(OPEN, "b", 60)
    await keyed.execute(OPEN, "half-open", -60)
    found = await series(keyed)
    assert (found["keys_held"], found["breakers_open"]) == (2, 2)
    assert found["oldest_open_breaker_seconds"] == near(200)
    assert found["oldest_held_seconds"] == near(700)
    assert found["kept_backhold"] == 2


async def test_a_key_in_the_body_is_seen_by_who_may_read_it(
    keyed: Connection, database_url: str
) -> None:
    """A reader may; an operator with a role of its own may not, and has no series about keys."""
    await set_queue_config(keyed, "jobs", keyed=False)
    await set_queue_config(keyed, "jobs", keyed=True, key_path="tenant", max_running_per_key=1)
    await send(keyed, "", 3, age_seconds=400)
    async with Roles(database_url, keyed) as roles:
        for kind, expected in ((RoleKind.READER, 2), (RoleKind.OPERATOR, None)):
            found = await series(roles.url(await roles.make(kind)))
            assert found.get("kept_backkey_limit") == expected
            assert bool(found) is (expected is not None)


async def test_other_figures_do_not_depend_on_keys(keyed: Connection) -> None:
    """If they cannot be read, the other series stay, and the error is counted."""
    await keyed.execute("alter function meshhook.key_metrics(integer) rename to gone")
    registry = CollectorRegistry()
    async with QueueExporter(keyed, registry=registry, **PATIENT) as exporter:
        assert await exporter.collect()
        assert [row["queue"] for row in exporter.rows] == ["jobs"]
        assert not exporter.key_rows
    name = "meshhook_exporter_collection_errors_total"
    assert registry.get_sample_value(name, {"error_type": "SchemaMissingError"}) in {1, 2}


async def test_a_queue_that_cannot_be_read_disturbs_no_other(keyed: Connection) -> None:
    """Its reason is in its row, and it has no series."""
    await keyed.execute("drop table pgmq.q_jobs cascade")
    (row,) = await keyed.fetch(queries.load("key_metrics"), 1_000)
    assert 'relation "pgmq.q_jobs" does not exist' in row["problem"]


async def test_it_reads_few_pages_of_a_deep_queue(keyed: Connection) -> None:
    """With 1,000 keys and 100,000 messages it reads little more than with 2,000 messages."""
    fill = (
        "insert into pgmq.q_jobs (vt, message, headers) select clock_timestamp(), '{}', "
        "jsonb_build_object('x-pgmq-group', 'key-' || n % 1000) from generate_series(1, $1::int) n"
    )
    await set_queue_config(keyed, "jobs", max_running_per_key=4)
    sizes = []
    for messages in (2_000, 98_000):
        await keyed.execute(fill, messages)
        for _ in range(2):
            text = await keyed.fetchval(
                "explain (analyze, buffers, format json) select * from meshhook.key_metrics(1000)"
            )
        plan = json.loads(text)[0]["Plan"]
        sizes.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
    few, many = sizes
    assert many <= 1.5 * few + 500
    assert many < 40_000
