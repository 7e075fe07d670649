"""Retry policies: how named backoffs grow, and what a job's own policy changes."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshhook import (
    FollowUp,
    InvalidJobError,
    QueueService,
    RetryPolicy,
    RetryStrategy,
    SyncQueueService,
    add_schedule,
    bind_topic,
    run_schedule,
    set_queue_config,
)
from meshhook.errors import InvalidSettingError
from meshhook.queue_config import QueueSettings, changed_settings
from meshhook.retry import (
    MAX_ATTEMPTS,
    MAX_BACKOFF_MS,
    chosen_delay_seconds,
    header_of_policy,
    policy_from_header,
    with_policy,
)

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

DELAYS = st.integers(0, MAX_BACKOFF_MS)
LISTS = st.lists(DELAYS, min_size=1, max_size=100)
FRACTIONS = st.floats(0, 1, exclude_max=True)
ATTEMPTS = st.integers(1, 2_000)


@st.composite
def policies(draw: st.DrawFn) -> RetryPolicy:
    """Any valid policy."""
    low, high = sorted([draw(DELAYS), draw(DELAYS)])
    delays = draw(st.none() | LISTS)
    return RetryPolicy(
        max_attempts=draw(st.none() | st.integers(1, MAX_ATTEMPTS)),
        backoff=draw(
            st.sampled_from([None, "list"])
            if delays
            else st.sampled_from([None, "exponential", "fixed", "list"])
        ),
        base_ms=draw(st.sampled_from([None, low])),
        max_ms=draw(st.sampled_from([None, high])),
        delays_ms=delays,
        jitter=draw(st.none() | st.floats(0, 1)),
    )


@given(LISTS, ATTEMPTS)
def test_a_list_gives_each_delay_and_repeats_the_last(delays: list[int], attempt: int) -> None:
    """After failed attempt n the ceiling is entry n; beyond the list, its last entry."""
    strategy = RetryStrategy(backoff="list", delays_ms=tuple(delays), jitter=0)
    assert strategy.get_next_delay(attempt) == (delays + [delays[-1]] * attempt)[attempt - 1]


@given(DELAYS, ATTEMPTS, FRACTIONS)
def test_a_fixed_backoff_never_grows(base_ms: int, attempt: int, fraction: float) -> None:
    """The ceiling is the base after every attempt, and jitter only shortens it."""
    strategy = RetryStrategy(
        base_ms, MAX_BACKOFF_MS, backoff="fixed", random_fraction=lambda: fraction
    )
    assert base_ms / 2 - 1 <= strategy.get_next_delay(attempt) <= base_ms


@given(policies())
def test_a_policy_survives_its_header(policy: RetryPolicy) -> None:
    """What a producer writes into the header, a worker reads back."""
    same = policy_from_header(json.loads(json.dumps(header_of_policy(policy))))
    assert asdict(same) == asdict(policy)


@given(policies(), policies(), ATTEMPTS, FRACTIONS)
def test_a_policy_over_any_settings_makes_a_strategy(
    queue: RetryPolicy, own: RetryPolicy, attempt: int, fraction: float
) -> None:
    """Whatever the settings and the job's own policy are, there is a delay of at most 7 days."""
    strategy = with_policy(with_policy(RetryStrategy(random_fraction=lambda: fraction), queue), own)
    assert 0 <= strategy.get_next_delay(attempt) <= MAX_BACKOFF_MS
    if own.max_attempts is not None:
        assert strategy.max_attempts == own.max_attempts
    if own.max_ms is not None and strategy.backoff == "exponential":
        assert strategy.get_next_delay(attempt) <= own.max_ms
    if own.delays_ms is not None:
        assert strategy.delays_ms == tuple(own.delays_ms)


def test_an_empty_policy_changes_nothing() -> None:
    """What a job's own policy leaves out is as the queue says."""
    settings = QueueSettings(retry_backoff="list", retry_delays_ms=(1, 2), retry_jitter=0.25)
    strategy = settings.retry_strategy()
    assert with_policy(strategy, RetryPolicy()) == strategy


def test_a_list_that_the_queue_no_longer_has_falls_back() -> None:
    """A job that asks for the queue's list gets its backoff if there is none."""
    strategy = with_policy(QueueSettings().retry_strategy(), RetryPolicy(backoff="list"))
    assert strategy.backoff == "exponential"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_attempts", 0),
        ("max_attempts", 1_001),
        ("max_attempts", True),
        ("max_attempts", 2.5),
        ("backoff", "linear"),
        ("backoff", ["fixed"]),
        ("base_ms", -1),
        ("max_ms", MAX_BACKOFF_MS + 1),
        ("delays_ms", []),
        ("delays_ms", [1] * 101),
        ("delays_ms", [1, -1]),
        ("delays_ms", ["1"]),
        ("delays_ms", "1,2"),
        ("jitter", 1.5),
        ("jitter", "0.5"),
        ("jitter", True),
        ("attempts", 3),
    ],
)
async def test_a_wrong_field_is_refused_by_the_library_and_by_sql(
    connection: Connection, queue_name: str, name: str, value: Any
) -> None:
    """Both name the header, the field and the value, and store nothing."""
    headers = {"meshhook-retry": {name: value}}
    with pytest.raises(InvalidJobError, match=f"meshhook-retry: .*{name}"):
        await QueueService[Any](connection, queue_name).enqueue({}, headers=headers)
    with pytest.raises(asyncpg.PostgresError, match=f"meshhook-retry: {name} ") as refused:
        await connection.execute(
            "select meshhook.enqueue($1, '{}', headers => $2)", queue_name, json.dumps(headers)
        )
    assert refused.value.sqlstate == "MHQ07"
    assert await connection.fetchval("select count(*) from pgmq.q_jobs") == 0


async def test_whole_numbers_may_have_a_point(connection: Connection, queue_name: str) -> None:
    """As PostgreSQL writes numerics: what SQL accepts is what the worker goes by."""
    await connection.execute(
        """select meshhook.enqueue($1, '{}', headers => jsonb_build_object('meshhook-retry',
            jsonb_build_object('max_attempts', 3.00, 'max_ms', 9e5, 'jitter', 1.0,
                'base_ms', extract(epoch from interval '1 minute') * 1000,
                'delays_ms', '[1.0, 60000.000]'::jsonb)))""",
        queue_name,
    )
    headers = json.loads(await connection.fetchval("select headers::text from pgmq.q_jobs"))
    found = policy_from_header(headers["meshhook-retry"])
    assert found == RetryPolicy(
        max_attempts=3, max_ms=900_000, jitter=1, base_ms=60_000, delays_ms=[1, 60_000]
    )
    await QueueService[Any](connection, queue_name).enqueue({}, headers=headers)
    with pytest.raises(InvalidSettingError, match="max_attempts"):
        policy_from_header({"max_attempts": 2.5})


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        ({"base_ms": 2, "max_ms": 1}, "max_ms"),
        ({"backoff": "fixed", "delays_ms": [1]}, "delays_ms is for the backoff"),
        ("fixed", "a retry policy is an object"),
        (None, "a retry policy is an object"),
    ],
)
async def test_fields_that_contradict_each_other_are_refused(
    connection: Connection, queue_name: str, policy: Any, problem: str
) -> None:
    """By the library and by SQL."""
    headers = {"meshhook-retry": policy}
    with pytest.raises(InvalidJobError, match=problem):
        await QueueService[Any](connection, queue_name).enqueue({}, headers=headers)
    with pytest.raises(asyncpg.PostgresError, match=problem):
        await connection.execute(
            "select meshhook.enqueue($1, '{}', headers => $2)", queue_name, json.dumps(headers)
        )


async def test_every_way_to_enqueue_stores_the_policy(
    connection: Connection, database_url: str, queue_name: str
) -> None:
    """One job, many, with a unique key, from a thread, and from SQL have the same header."""
    policy = RetryPolicy(max_attempts=3, delays_ms=[1_000, 60_000])
    service = QueueService[Any](connection, queue_name)
    await service.enqueue({}, retry=policy)
    await service.enqueue_many([{}], retry=policy, headers={"a": 1})
    await service.enqueue({}, retry=policy, unique_key="k")
    await service.enqueue_many([{}], retry=policy, group="g")
    await connection.fetch(
        "select meshhook.enqueue_many('jobs', array['{}'::jsonb], headers => $1)",
        json.dumps({"meshhook-retry": header_of_policy(policy)}),
    )
    with SyncQueueService[Any](database_url, queue_name) as blocking:
        await connection.fetchval("select 1")
        blocking.enqueue({}, retry=policy)
    rows = await connection.fetch("select headers -> 'meshhook-retry' as own from pgmq.q_jobs")
    assert [json.loads(row["own"]) for row in rows] == [header_of_policy(policy)] * 6


async def test_published_jobs_have_their_own_policies(
    connection: Connection, database_url: str, queue_name: str
) -> None:
    """The library, the blocking service and the command store the same headers."""
    await bind_topic(connection, queue_name, "orders.#")
    policy = RetryPolicy(max_attempts=3)
    failed = FollowUp(queue_name, {"failed": True})
    service = QueueService[Any](connection, queue_name)
    await service.publish("orders.new", {}, retry=policy, expires_in=60, on_dead_letter=failed)
    with SyncQueueService[Any](database_url, queue_name) as blocking:
        blocking.publish("orders.new", {}, retry=policy, expires_in=60, on_dead_letter=failed)
    rows = await connection.fetch("select headers from pgmq.q_jobs")
    stored = [json.loads(row["headers"]) for row in rows]
    assert len(stored) == 2
    for headers in stored:
        assert headers["meshhook-retry"] == header_of_policy(policy)
        assert headers["meshhook-expires-in"] == 60
        assert headers["meshhook-on-dead-letter"]["queue"] == queue_name


async def test_jobs_of_a_schedule_have_their_own_policies(
    connection: Connection, queue_name: str
) -> None:
    """What `add_schedule` is given, each job has; its deadline counts from when it is enqueued."""
    policy = RetryPolicy(max_attempts=3)
    failed = FollowUp(queue_name, {"failed": True})
    await add_schedule(
        connection,
        queue_name,
        "poll",
        every=60,
        retry=policy,
        expires_in=timedelta(minutes=5),
        on_dead_letter=failed,
    )
    assert not await add_schedule(
        connection,
        queue_name,
        "poll",
        every=60,
        retry=policy,
        expires_in=timedelta(minutes=5),
        on_dead_letter=failed,
    )
    await run_schedule(connection, queue_name, "poll")
    own = json.loads(await connection.fetchval("select headers from pgmq.q_jobs"))
    assert own["meshhook-retry"] == header_of_policy(policy)
    assert own["meshhook-expires-in"] == 300
    assert own["meshhook-on-dead-letter"]["message"] == {"failed": True}
    with pytest.raises(InvalidSettingError, match="retry is a RetryPolicy"):
        await add_schedule(connection, queue_name, "poll", every=60, retry={})  # type: ignore[arg-type]


async def test_a_policy_of_another_type_is_refused(connection: Connection, queue_name: str) -> None:
    """The error names the argument; so does one that gives argument and header."""
    service = QueueService[Any](connection, queue_name)
    with pytest.raises(InvalidSettingError, match="retry is a RetryPolicy"):
        await service.enqueue({}, retry={"max_attempts": 3})  # type: ignore[call-overload]
    with pytest.raises(InvalidJobError, match="meshhook-retry was given beside"):
        await service.enqueue({}, retry=RetryPolicy(), headers={"meshhook-retry": {}})


async def test_a_backoff_is_set_as_text(connection: Connection, queue_name: str) -> None:
    """The command line gives delays with commas; a list without delays is refused."""
    config = await set_queue_config(
        connection, queue_name, retry_backoff="list", retry_delays_ms="1000, 5000,60000"
    )
    assert (config.retry_backoff, config.retry_delays_ms) == ("list", (1_000, 5_000, 60_000))
    with pytest.raises(InvalidSettingError, match="needs delays"):
        changed_settings(config, {"retry_delays_ms": "none"})
    with pytest.raises(InvalidSettingError, match="retry_backoff"):
        changed_settings(config, {"retry_backoff": "linear"})
    with pytest.raises(asyncpg.CheckViolationError, match="list_has_delays"):
        await connection.execute("update meshhook.queue_config set retry_delays_ms = '{}'")
    for wrong in ("'{-1}'", "'{604800001}'", "'{null}'", "'{{1}}'", "array_fill(1, array[101])"):
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(f"update meshhook.queue_config set retry_delays_ms = {wrong}")


@pytest.mark.parametrize("wrong", [-1, 604_801, float("nan"), True, "5", object(), timedelta(-1)])
def test_a_retry_function_returns_a_delay(wrong: Any) -> None:
    """Nonsense is named; numbers, timedeltas and None are taken."""
    with pytest.raises(InvalidSettingError, match="a retry function returns"):
        chosen_delay_seconds(wrong)
    assert chosen_delay_seconds(timedelta(minutes=1)) == 60
    assert chosen_delay_seconds(1.5) == 1.5
    assert chosen_delay_seconds(None) is None
