"""Policies of a job's own in SQL: what the functions return, every way to enqueue stores."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import FollowUp, QueueService, RetryPolicy, bind_topic, create_queue
from meshhook.store.policy_headers import job_headers

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

RETRIES = Path(__file__).parent.parent / "docs" / "retries.md"
DEADLINE = datetime(2031, 1, 1, 8, 30, tzinfo=UTC)


async def made(connection: Connection, arguments: str) -> Any:
    """Return what `meshhook.job_policy` returns."""
    return json.loads(await connection.fetchval(f"select meshhook.job_policy({arguments})"))


@pytest.mark.parametrize(
    ("sql", "given"),
    [
        ("", {}),
        ("null, null", {}),
        ("max_attempts => 20", {"retry": RetryPolicy(max_attempts=20)}),
        (
            "backoff => 'fixed', base_ms => 5000, max_ms => 9000, jitter => 0.25",
            {"retry": RetryPolicy(backoff="fixed", base_ms=5_000, max_ms=9_000, jitter=0.25)},
        ),
        (
            "delays_ms => '{1000, 60000}', jitter => 0",
            {"retry": RetryPolicy(delays_ms=[1_000, 60_000], jitter=0)},
        ),
        ("delays_ms => array[1]", {"retry": RetryPolicy(delays_ms=[1])}),
        ("expires_in => '8 hours'", {"expires_in": timedelta(hours=8)}),
        (
            "on_dead_letter => meshhook.follow_up('refunds', '{\"order\": null}')",
            {"on_dead_letter": FollowUp("refunds", {"order": None})},
        ),
        (
            "on_dead_letter => meshhook.follow_up('refunds')",
            {"on_dead_letter": FollowUp("refunds")},
        ),
        (
            (
                "1, on_dead_letter => meshhook.follow_up('refunds', '7', '{\"a\": 1}'::jsonb || "
                "meshhook.job_policy(max_attempts => 2, expires_in => '1 min'), delay => '90 s', "
                "key => 'acme', priority => 'high')"
            ),
            {
                "retry": RetryPolicy(max_attempts=1),
                "on_dead_letter": FollowUp(
                    "refunds",
                    7,
                    delay=90,
                    key="acme",
                    priority="high",
                    headers={"a": 1},
                    retry=RetryPolicy(max_attempts=2),
                    expires_in=60,
                ),
            },
        ),
    ],
)
async def test_sql_makes_the_headers_of_the_library(
    connection: Connection, sql: str, given: dict[str, Any]
) -> None:
    """The same policy is the same header, whoever writes it."""
    assert await made(connection, sql) == (job_headers(None, None, **given) or {})


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/St_Johns"])
async def test_a_deadline_is_the_same_moment_in_every_time_zone(
    connection: Connection, zone: str
) -> None:
    """Neither the time zone of the session nor its style of dates changes it."""
    await connection.execute(f"set timezone to '{zone}'")
    await connection.execute("set datestyle to 'SQL, DMY'")
    headers = await made(connection, "expires_at => '2031-01-01 09:30:00.25+01'")
    found = datetime.fromisoformat(headers["meshhook-expires-at"])
    assert found == DEADLINE + timedelta(milliseconds=250)


@pytest.mark.parametrize(
    ("call", "state", "problem"),
    [
        ("job_policy(0)", "MHQ07", "meshhook-retry: max_attempts is a whole number"),
        ("job_policy(backoff => 'linear')", "MHQ07", "backoff is one of exponential, fixed, list"),
        ("job_policy(base_ms => 2, max_ms => 1)", "MHQ07", r"base_ms \(2\) is more than max_ms"),
        ("job_policy(delays_ms => '{}')", "MHQ07", "delays_ms is a list of 1 to 100"),
        ("job_policy(delays_ms => '{1, null}')", "MHQ07", "delays_ms is a list of 1 to 100"),
        ("job_policy(delays_ms => '{{1}, {2}}')", "MHQ07", "delays_ms is a list of 1 to 100"),
        ("job_policy(backoff => 'fixed', delays_ms => '{1}')", "MHQ07", "for the backoff list"),
        ("job_policy(jitter => 'NaN')", "MHQ07", "jitter is a number from 0 to 1"),
        ("job_policy(expires_in => '0')", "MHQ07", "expires-in: 0.001 to 31622400 seconds"),
        ("job_policy(expires_in => '-1 s')", "MHQ07", "got -1"),
        ("job_policy(expires_in => '367 days')", "MHQ07", "expires-in: 0.001 to 31622400"),
        ("job_policy(expires_at => 'infinity')", "MHQ07", 'got "infinity"'),
        ("job_policy(expires_at => '0044-03-15 BC')", "MHQ07", 'got "0044-03-15.* BC"'),
        ("job_policy(expires_at => '12031-01-01')", "MHQ07", 'got "12031-01-01'),
        ("job_policy(expires_at => now(), expires_in => '1 s')", "MHQ07", "were both given"),
        ("job_policy(on_dead_letter => '{}')", "MHQ07", "it has a queue and a message"),
        ("job_policy(on_dead_letter => 'null')", "MHQ07", "it is an object"),
        ("follow_up(null, '{}')", "MHQ07", "queue is the name of a queue"),
        ("follow_up('Refunds', '{}')", "MHQ07", "queue is the name of a queue"),
        ("follow_up('refunds', null)", "MHQ07", "the message is null"),
        ("follow_up('refunds', headers => '[]')", "MHQ07", "headers are a JSON object"),
        ("follow_up('refunds', headers => '{\"meshhook-a\": 1}')", "MHQ07", "the queue's own"),
        (
            "follow_up('refunds', headers => '{\"meshhook-retry\": {\"max_attempts\": 0}}')",
            "MHQ07",
            "max_attempts is a whole number",
        ),
        (
            (
                "follow_up('refunds', headers => "
                "meshhook.job_policy(on_dead_letter => meshhook.follow_up('refunds')))"
            ),
            "MHQ07",
            "the queue's own",
        ),
        ("follow_up('refunds', key => '')", "MHQ07", "key is text of 1 to 200 characters"),
        ("follow_up('refunds', priority => 'soon')", "MHQ07", "priority is urgent, high, normal"),
        ("follow_up('refunds', delay => '-1 s')", "MHQ08", "a delay is 0 to 366 days"),
        (
            (
                "job_policy(on_dead_letter => meshhook.follow_up('refunds', "
                "to_jsonb(repeat('x', 70000))))"
            ),
            "MHQ07",
            "at most 65536 are allowed",
        ),
    ],
)
async def test_nonsense_is_refused_where_it_is_made(
    connection: Connection, call: str, state: str, problem: str
) -> None:
    """The error names the header and the value, with the code of its neighbours."""
    with pytest.raises(asyncpg.PostgresError, match=problem) as refused:
        await connection.execute(f"select meshhook.{call}")
    assert refused.value.sqlstate == state


@pytest.mark.parametrize(
    "call",
    [
        "meshhook.enqueue('jobs', '{}', headers => %s)",
        "meshhook.enqueue('jobs', '{}', headers => %s, unique_key => 'k', priority => 'high')",
        "meshhook.enqueue_many('jobs', array['{}'::jsonb], headers => %s)",
        "meshhook.enqueue_unique('jobs', array['{}'::jsonb], '{k}', headers => %s)",
        "meshhook.enqueue_group('jobs', array['{}'::jsonb], headers => %s)",
        "meshhook.publish('orders.new', '{}', headers => %s)",
    ],
)
async def test_every_way_to_enqueue_takes_it(
    connection: Connection, queue_name: str, call: str
) -> None:
    """Beside other headers, and other arguments."""
    await bind_topic(connection, queue_name, "orders.#")
    own = "'{\"a\": 1}'::jsonb || meshhook.job_policy(3, expires_in => '1 min')"
    await connection.fetch(f"select * from {call % own}")
    headers = json.loads(await connection.fetchval("select headers from pgmq.q_jobs"))
    assert (headers["a"], headers["meshhook-retry"]) == (1, {"max_attempts": 3})
    assert headers["meshhook-expires-in"] == 60
    job = await QueueService[Any](connection, queue_name).dequeue()
    assert job is not None


async def test_jobs_of_a_schedule_take_it(connection: Connection, queue_name: str) -> None:
    """A schedule that is declared again with the same policy is the same."""
    add = (
        "select meshhook.add_schedule('jobs', 'poll', every => '1 min', headers => "
        "meshhook.job_policy(3, on_dead_letter => meshhook.follow_up('jobs')))"
    )
    assert await connection.fetchval(add)
    assert not await connection.fetchval(add)


async def test_the_documents_show_what_runs(connection: Connection) -> None:
    """Every statement of docs/retries.md runs, in queues of these names."""
    for name in ("orders", "mails", "refunds"):
        await create_queue(connection, name)
    blocks = re.findall(r"```sql\n(.*?)```", RETRIES.read_text(), re.DOTALL)
    assert any("meshhook.job_policy" in block for block in blocks)
    for block in blocks:
        await connection.execute(block)
    count = await connection.fetchval(
        "select (select count(*) from pgmq.q_orders) + (select count(*) from pgmq.q_mails)"
    )
    assert count >= len(blocks)
