"""`spec.keys` in a real database: what is declared is set, beside whoever uses the queue."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, TypeAlias, cast

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from meshhook.administration import create_queue, get_queue_config, set_queue_config
from meshhook.keys import get_key, hold_key, set_key
from meshhook.role_kinds import RoleKind
from meshhook_operator.api.conditions import Finding
from meshhook_operator.api.keys_spec import KeysSpec
from meshhook_operator.errors import NotLeadingError
from meshhook_operator.metrics import OperatorMetrics
from meshhook_operator.reconciliation import queue_keys
from meshhook_operator.reconciliation.queue_keys import QueueKeys
from meshhook_operator.reconciliation.reconciler import JobQueueReconciler
from meshhook_operator.reconciliation.sources import Source
from support.declaring_operator import HOLD_SNAPSHOT, REQUEST, DeclaringOperator
from support.jobqueues import deployment, jobqueue
from support.recorded_cluster import RecordedCluster
from support.roles import Roles
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("queue_name")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

INDEXES = (
    "select count(*) from pg_indexes where indexname in ('q_jobs_key_idx', 'q_jobs_running_idx')"
)


def make(url: str) -> DeclaringOperator:
    """Return an operator of the keys."""
    return DeclaringOperator(url, QueueKeys, KeysSpec)


@pytest.fixture
async def operator(database_url: str) -> AsyncIterator[DeclaringOperator]:
    """The operator, which owns the queue."""
    found = make(database_url)
    yield found
    await found.database.close()


async def test_what_is_declared_is_set(operator: DeclaringOperator, connection: Connection) -> None:
    """Path and limits are those of the spec."""
    await operator.until_as_declared(
        path="payload.customer", maxRunning=40, maxStartsPerKey=5, startsPeriodSeconds=60
    )
    config = await get_queue_config(connection, "jobs")
    assert (config.keyed, config.key_path) == (True, "payload.customer")
    assert (config.max_running, config.max_running_per_key) == (40, None)
    assert (config.max_starts_per_key, config.starts_period_seconds) == (5, 60)


async def test_what_is_not_declared_is_left_alone(
    operator: DeclaringOperator, connection: Connection
) -> None:
    """A limit by hand stays, one that is declared comes back, and 0 removes one."""
    await operator.until_as_declared(maxRunning=40)
    await set_queue_config(connection, "jobs", max_running=1, max_running_per_key=3, max_starts=9)
    await operator.until_as_declared(maxRunning=40, maxStarts=0)
    config = await get_queue_config(connection, "jobs")
    assert (config.max_running, config.max_running_per_key, config.max_starts) == (40, 3, None)


async def test_the_breaker_is_declared(operator: DeclaringOperator, connection: Connection) -> None:
    """What it names is set; a longest pause by hand stays, and 0 failures switch it off."""
    await operator.until_as_declared(breaker={"failures": 5, "pauseSeconds": 60})
    await set_queue_config(connection, "jobs", breaker_failures=9, breaker_max_pause_seconds=90)
    await operator.until_as_declared(breaker={"failures": 5, "pauseSeconds": 60})
    config = await get_queue_config(connection, "jobs")
    assert (config.breaker_failures, config.breaker_pause_seconds) == (5, 60)
    assert config.breaker_max_pause_seconds == 90
    finding = await operator.tick(breaker={"pauseSeconds": 91})
    assert finding is not None
    assert "breaker_pause_seconds (91) is more than" in finding.message
    await operator.until_as_declared(breaker={"failures": 0})
    assert (await get_queue_config(connection, "jobs")).breaker_failures is None


async def test_order_is_declared(operator: DeclaringOperator, connection: Connection) -> None:
    """Of new keys, of keys that are there, and no longer; turning the keys off ends it as well."""
    gone = "select not exists (select from pg_indexes where indexname = 'q_jobs_order_idx')"
    await operator.until_as_declared(ordered=True)
    assert (await get_queue_config(connection, "jobs")).ordered
    await operator.until_as_declared(ordered=False)
    # It is dropped after the setting has changed.
    await eventually(lambda: connection.fetchval(gone))
    await operator.until_as_declared(ordered=True)
    await operator.until_as_declared()
    assert (await get_queue_config(connection, "jobs")).ordered
    await operator.until_as_declared(enabled=False)
    config = await get_queue_config(connection, "jobs")
    assert (config.keyed, config.ordered) == (False, False)
    # It is dropped after the setting has changed.
    await eventually(lambda: connection.fetchval(gone))


async def test_nothing_is_written_if_all_is_as_declared(
    operator: DeclaringOperator, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ticks of a queue whose keys are as declared write no row."""
    monkeypatch.setattr(queue_keys, "OVERRIDES_SECONDS", 0.0)
    declared = {"maxRunning": 4, "overrides": [{"key": "a", "weight": 2.0, "maxRunning": 1}]}
    await operator.until_as_declared(**declared)
    before = await rows(connection)
    await operator.tick(**declared)
    assert await rows(connection) == before


async def rows(connection: Connection) -> list[tuple[Any, ...]]:
    """Return the versions of all rows of settings."""
    found = await connection.fetch(
        "select xmin::text, xmax::text, ctid::text from meshhook.queue_config "
        "union all select xmin::text, xmax::text, ctid::text from meshhook.keys"
    )
    return [tuple(row) for row in found]


async def test_single_keys_get_what_is_declared(
    operator: DeclaringOperator, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Holds, other keys and what is absent stay; 0 removes a limit."""
    monkeypatch.setattr(queue_keys, "OVERRIDES_SECONDS", 0.0)
    await set_queue_config(connection, "jobs", keyed=True, max_running_per_key=7)
    await set_key(connection, "jobs", "a", max_starts=5, weight=9)
    await set_key(connection, "jobs", "b", max_running=5)
    await hold_key(connection, "jobs", "a")
    declared = [{"key": "a", "weight": 2, "maxRunning": 3}, {"key": "", "maxStarts": 1}]
    await operator.until_as_declared(overrides=declared)
    a = await get_key(connection, "jobs", "a")
    assert (a.weight, a.max_running, a.max_starts, a.held_until is not None) == (2, 3, 5, True)
    assert (await get_key(connection, "jobs", "")).max_starts == 1
    await operator.until_as_declared(overrides=[{"key": "b", "maxRunning": 0}])
    b = await get_key(connection, "jobs", "b")
    assert (b.max_running, b.has_own_settings) == (7, False)
    assert (await get_key(connection, "jobs", "a")).max_running == 3


async def test_indexes_are_built_beside_the_ticks(
    operator: DeclaringOperator, connection: Connection, database_url: str
) -> None:
    """While a transaction delays them, ticks and other changes go on, and the condition says so."""
    other = await asyncpg.connect(database_url)
    await other.execute(HOLD_SNAPSHOT)
    try:
        finding = await operator.tick(maxRunningPerKey=4)
        assert finding is not None
        assert (finding.holds, finding.reason) == (True, "KeysChanging")
        assert "open in the database" in finding.message

        async def waits() -> bool:
            return bool(
                await connection.fetchval(
                    "select exists (select from pg_locks where not granted "
                    "and locktype = 'virtualxid')"
                )
            )

        await eventually(waits)
        await operator.database.ensure_queue("jobs", {"max_retry_attempts": 9})
        again = await operator.tick(maxRunningPerKey=4)
        assert again == finding
        assert not (await get_queue_config(connection, "jobs")).keyed
    finally:
        await other.close()
    await operator.until_as_declared(maxRunningPerKey=4)
    config = await get_queue_config(connection, "jobs")
    assert (config.keyed, config.max_running_per_key) == (True, 4)
    assert config.max_retry_attempts == 9


async def test_limits_are_set_while_an_index_is_dropped(
    operator: DeclaringOperator, connection: Connection, database_url: str
) -> None:
    """A change that has set what was declared, and still drops an index, holds nothing up."""
    await operator.until_as_declared(ordered=True)
    other = await asyncpg.connect(database_url)
    await other.execute("begin; select from pgmq.q_jobs")
    try:

        async def is_set() -> bool:
            await operator.tick(ordered=False)
            return not (await get_queue_config(connection, "jobs")).ordered

        await eventually(is_set)
        last = operator.database.key_changes.last("jobs")
        assert last is not None
        assert await operator.tick(ordered=False, maxRunning=4) is None
        assert (await get_queue_config(connection, "jobs")).max_running == 4
        assert last.is_running
    finally:
        await other.close()
    await eventually(lambda: not last.is_running)


async def test_what_was_cut_off_is_built_anew(
    operator: DeclaringOperator, connection: Connection, database_url: str
) -> None:
    """An operator that ends while it builds leaves an invalid index; the next one replaces it."""
    other = await asyncpg.connect(database_url)
    await other.execute(HOLD_SNAPSHOT)
    await operator.tick()
    await eventually(lambda: connection.fetchval(INDEXES))
    await operator.database.close()
    await other.close()
    assert not (await get_queue_config(connection, "jobs")).keyed
    await operator.until_as_declared()
    assert await connection.fetchval(INDEXES) == 2


async def test_keys_are_turned_off_with_their_limits(
    operator: DeclaringOperator, connection: Connection
) -> None:
    """The indexes and the limits of the queue go; also if an operator was cut off in between."""
    await operator.until_as_declared(
        maxRunning=4, maxStartsPerKey=1, startsPeriodSeconds=60, breaker={"failures": 5}
    )
    await operator.until_as_declared(enabled=False)
    config = await get_queue_config(connection, "jobs")
    assert (config.keyed, config.max_running, config.max_starts_per_key) == (False, None, None)
    assert config.breaker_failures is None

    async def are_gone() -> bool:
        return not await connection.fetchval(INDEXES)

    await eventually(are_gone)


async def test_indexes_that_were_left_behind_are_dropped(
    operator: DeclaringOperator, connection: Connection
) -> None:
    """A queue without keys may still have their indexes, if nobody was left to drop them."""
    await set_queue_config(connection, "jobs", keyed=True)
    await connection.execute("update meshhook.queue_config set keyed = false")
    assert await operator.tick(enabled=False) is None

    async def are_gone() -> bool:
        return not await connection.fetchval(INDEXES)

    await eventually(are_gone)


async def test_a_path_is_not_moved_under_messages(
    operator: DeclaringOperator, connection: Connection
) -> None:
    """Keys that are elsewhere are refused, with the way out; nothing else is changed."""
    await operator.until_as_declared(path="a")
    finding = await operator.tick(path="b", maxRunning=4)
    assert finding is not None
    assert (finding.holds, finding.reason) == (False, "KeysNotSet")
    assert "spec.keys.path is b" in finding.message
    assert "spec.keys.enabled to false first" in finding.message
    assert (await get_queue_config(connection, "jobs")).max_running is None


async def test_only_the_owner_of_the_table_builds(
    operator: DeclaringOperator, connection: Connection, database_url: str
) -> None:
    """An operator of a queue that others created says which command helps; then it sets limits."""
    async with Roles(database_url, connection) as roles:
        own = make(roles.url(await roles.make(RoleKind.OPERATOR)))
        try:

            async def refusal() -> Finding | None:
                found = await own.tick(maxRunning=4)
                return found if found and found.reason == "KeysNotSet" else None

            found = await eventually(refusal)
            assert not found.holds
            assert "meshhook queue set jobs keyed=true" in found.message
            assert "must be owner of table q_jobs" in found.message
            last = own.database.key_changes.last("jobs")
            assert await own.tick(maxRunning=4) == found, "it is not tried at each tick"
            assert own.database.key_changes.last("jobs") is last
            await set_queue_config(connection, "jobs", keyed=True)
            await own.until_as_declared(maxRunning=4, overrides=[{"key": "a", "maxRunning": 1}])
        finally:
            await own.database.close()
    assert (await get_queue_config(connection, "jobs")).max_running == 4
    assert (await get_key(connection, "jobs", "a")).max_running == 1


async def test_who_does_not_lead_changes_nothing(
    operator: DeclaringOperator, connection: Connection, database_url: str
) -> None:
    """Neither indexes nor limits, also if it stopped leading while indexes were built."""
    operator.leads = False
    with pytest.raises(NotLeadingError):
        await operator.tick(maxRunning=4)
    operator.leads = True
    other = await asyncpg.connect(database_url)
    await other.execute(HOLD_SNAPSHOT)
    await operator.tick(maxRunning=4)
    await eventually(lambda: connection.fetchval(INDEXES))
    operator.leads = False
    await other.close()

    def has_ended() -> bool:
        change = operator.database.key_changes.last("jobs")
        return change is not None and not change.is_running

    await eventually(has_ended)
    assert not (await get_queue_config(connection, "jobs")).keyed


async def test_a_queue_that_is_made_again_gets_its_keys(
    operator: DeclaringOperator, connection: Connection
) -> None:
    """A queue that was dropped has no keys; the next ticks give it what is declared."""
    await operator.until_as_declared(maxRunning=4)
    await connection.execute("select pgmq.drop_queue('jobs')")
    await connection.execute("delete from meshhook.queue_config")
    await create_queue(connection, "jobs")
    await operator.until_as_declared(maxRunning=4)
    assert (await get_queue_config(connection, "jobs")).max_running == 4


async def test_ready_and_events_tell_of_the_keys(
    operator: DeclaringOperator, connection: Connection, database_url: str
) -> None:
    """While indexes are built, Ready stays true and says so; what cannot be set makes it false."""
    cluster = RecordedCluster()
    declared = jobqueue(
        queueName="jobs",
        worker=None,
        deploymentRef={"name": "emails-worker"},
        keys={"path": "a", "maxRunning": 4},
    )
    reconciler = JobQueueReconciler(
        declared,
        cluster=cast("Any", cluster),
        metrics=OperatorMetrics(CollectorRegistry()),
        find_conflict=lambda _: None,
        clock=time.time,
    )
    reconciler._workers.fleet.is_known = True
    reconciler.on_deployment_changed(deployment())

    async def reason() -> tuple[str, str]:
        found = await operator.database.read_demand([REQUEST], waiting_seconds=1)
        await reconciler.reconcile(found["jobs"], Source(operator.database, None))
        condition = cluster.condition(declared.key)
        assert condition is not None
        return condition["status"], condition["reason"]

    async def is_operating() -> bool:
        return await reason() == ("True", "Operating")

    other = await asyncpg.connect(database_url)
    await other.execute(HOLD_SNAPSHOT)
    await is_operating()  # the other settings are written first
    assert await reason() == ("True", "KeysChanging")
    await other.close()
    await eventually(is_operating)
    assert declared.spec is not None
    moved = declared.spec.model_copy(update={"keys": KeysSpec(path="b")})
    reconciler.on_jobqueue_changed(replace(declared, generation=2, spec=moved))
    assert await reason() == ("False", "KeysNotSet")
    told = {reason: message for _, reason, message in cluster.events}
    assert told["KeysSet"].startswith("The keys of the queue are as declared.")
    assert "Scaling goes on" in told["KeysNotSet"]
    assert reconciler._workers.autoscaler.decision is not None
