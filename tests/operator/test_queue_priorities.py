"""`spec.priorities` in a real database: what is declared is set, beside whoever uses the queue."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeAlias

import asyncpg
import pytest

from meshhook.administration import get_queue_config, set_queue_config
from meshhook.role_kinds import RoleKind
from meshhook_operator.api.conditions import Finding
from meshhook_operator.api.priorities_spec import PrioritiesSpec
from meshhook_operator.errors import NotLeadingError
from meshhook_operator.reconciliation.queue_priorities import QueuePriorities
from support.declaring_operator import HOLD_SNAPSHOT, DeclaringOperator
from support.reconciled import Reconciled
from support.roles import Roles
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("queue_name")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

INDEX = "select count(*) from pg_indexes where indexname = 'q_jobs_priority_idx'"


def make(url: str) -> DeclaringOperator:
    """Return an operator of the priorities."""
    return DeclaringOperator(url, QueuePriorities, PrioritiesSpec)


@pytest.fixture
async def operator(database_url: str) -> AsyncIterator[DeclaringOperator]:
    """The operator, which owns the queue."""
    found = make(database_url)
    yield found
    await found.database.close()


async def is_gone(connection: Connection) -> bool:
    """Return whether there is no index of priorities."""
    return not await connection.fetchval(INDEX)


async def test_what_is_declared_is_set(operator: DeclaringOperator, connection: Connection) -> None:
    """Targets and slots are those of the spec; what is absent is left alone."""
    await set_queue_config(connection, "jobs", urgent_slots=3)
    await operator.until_as_declared(targetSeconds={"urgent": 2})
    config = await get_queue_config(connection, "jobs")
    assert (config.prioritized, config.urgent_slots) == (True, 3)
    assert config.priority_target_seconds == (2, 15, 60, 600)
    assert await connection.fetchval(INDEX) == 1
    await operator.until_as_declared(urgentSlots=0)
    await operator.until_as_declared()
    config = await get_queue_config(connection, "jobs")
    assert (config.prioritized, config.urgent_slots) == (True, 0)
    assert config.priority_target_seconds == (2, 15, 60, 600)


async def test_what_somebody_changed_is_set_back(
    operator: DeclaringOperator, connection: Connection
) -> None:
    """A target by hand is replaced by the declared one, and priorities turned off come back."""
    declared = {"targetSeconds": {"urgent": 1, "low": 900}}
    await operator.until_as_declared(**declared)
    await set_queue_config(connection, "jobs", priority_target_seconds="3,3,3,3")
    await operator.until_as_declared(**declared)
    config = await get_queue_config(connection, "jobs")
    assert config.priority_target_seconds == (1, 15, 60, 900)
    await set_queue_config(connection, "jobs", prioritized=False)
    await operator.until_as_declared(**declared)
    assert (await get_queue_config(connection, "jobs")).prioritized


async def test_nothing_is_written_if_all_is_as_declared(
    operator: DeclaringOperator, connection: Connection
) -> None:
    """Ticks of a queue whose priorities are as declared write no row."""
    version = "select xmin::text || xmax::text || ctid::text from meshhook.queue_config"
    declared = {"targetSeconds": {"urgent": 0.5}, "urgentSlots": 2}
    await operator.until_as_declared(**declared)
    # The change that built the index locks the row once more before it ends.
    last = operator.database.priority_changes.last("jobs")
    assert last is not None
    await eventually(lambda: not last.is_running)
    before = await connection.fetchval(version)
    await operator.tick(**declared)
    assert await connection.fetchval(version) == before


async def test_the_index_is_built_beside_the_ticks(
    operator: DeclaringOperator, connection: Connection, database_url: str
) -> None:
    """While a transaction delays it, ticks and other changes go on, and the condition says so."""
    other = await asyncpg.connect(database_url)
    await other.execute(HOLD_SNAPSHOT)
    try:
        finding = await operator.tick(urgentSlots=2)
        assert finding is not None
        assert (finding.holds, finding.reason) == (True, "PrioritiesChanging")
        assert "open in the database" in finding.message
        await eventually(lambda: connection.fetchval(INDEX))
        await operator.database.ensure_queue("jobs", {"max_retry_attempts": 9})
        assert await operator.tick(urgentSlots=2) == finding
        assert not (await get_queue_config(connection, "jobs")).prioritized
    finally:
        await other.close()
    await operator.until_as_declared(urgentSlots=2)
    config = await get_queue_config(connection, "jobs")
    assert (config.prioritized, config.urgent_slots, config.max_retry_attempts) == (True, 2, 9)


async def test_what_was_cut_off_is_built_anew(
    operator: DeclaringOperator, connection: Connection, database_url: str
) -> None:
    """An operator that ends while it builds leaves an invalid index; the next one replaces it."""
    other = await asyncpg.connect(database_url)
    await other.execute(HOLD_SNAPSHOT)
    await operator.tick()
    await eventually(lambda: connection.fetchval(INDEX))
    await operator.database.close()
    await other.close()
    assert not (await get_queue_config(connection, "jobs")).prioritized
    await operator.until_as_declared()
    assert await connection.fetchval(
        "select indisvalid from pg_index where indexrelid = 'pgmq.q_jobs_priority_idx'::regclass"
    )


async def test_priorities_are_turned_off(
    operator: DeclaringOperator, connection: Connection
) -> None:
    """The index goes, and the targets stay; also an index that an operator left behind."""
    await operator.until_as_declared(targetSeconds={"urgent": 1})
    await operator.until_as_declared(enabled=False)
    config = await get_queue_config(connection, "jobs")
    assert (config.prioritized, config.priority_target_seconds) == (False, (1, 15, 60, 600))
    await eventually(lambda: is_gone(connection))


async def test_an_index_that_was_left_behind_is_dropped(
    operator: DeclaringOperator, connection: Connection
) -> None:
    """A queue without priorities may still have it, if nobody was left to drop it."""
    await set_queue_config(connection, "jobs", prioritized=True)
    await connection.execute("update meshhook.queue_config set prioritized = false")
    assert await operator.tick(enabled=False) is None
    await eventually(lambda: is_gone(connection))


async def test_a_keyed_queue_is_refused(
    operator: DeclaringOperator, connection: Connection
) -> None:
    """Keys that somebody set by hand stay, and the condition says what to do."""
    await set_queue_config(connection, "jobs", keyed=True)

    async def refusal() -> Finding | None:
        found = await operator.tick()
        return found if found and found.reason == "PrioritiesNotSet" else None

    found = await eventually(refusal)
    assert "prioritized (true) is not for keyed queues: set keyed=false" in found.message
    assert (await get_queue_config(connection, "jobs")).keyed


async def test_only_the_owner_of_the_table_builds(
    operator: DeclaringOperator, connection: Connection, database_url: str
) -> None:
    """An operator of a queue that others created says which command helps; then it sets targets."""
    async with Roles(database_url, connection) as roles:
        own = make(roles.url(await roles.make(RoleKind.OPERATOR)))
        try:

            async def refusal() -> Finding | None:
                found = await own.tick(urgentSlots=2)
                return found if found and found.reason == "PrioritiesNotSet" else None

            found = await eventually(refusal)
            assert not found.holds
            assert "meshhook queue set jobs prioritized=true" in found.message
            assert "must be owner of table q_jobs" in found.message
            last = own.database.priority_changes.last("jobs")
            assert await own.tick(urgentSlots=2) == found, "it is not tried at each tick"
            assert own.database.priority_changes.last("jobs") is last
            await set_queue_config(connection, "jobs", prioritized=True)
            await own.until_as_declared(urgentSlots=2, targetSeconds={"urgent": 1})
        finally:
            await own.database.close()
    config = await get_queue_config(connection, "jobs")
    assert (config.urgent_slots, config.priority_target_seconds[0]) == (2, 1)


async def test_who_does_not_lead_changes_nothing(
    operator: DeclaringOperator, connection: Connection, database_url: str
) -> None:
    """Neither the index nor targets, also if it stopped leading while the index was built."""
    operator.leads = False
    with pytest.raises(NotLeadingError):
        await operator.tick(urgentSlots=2)
    operator.leads = True
    other = await asyncpg.connect(database_url)
    await other.execute(HOLD_SNAPSHOT)
    await operator.tick(urgentSlots=2)
    await eventually(lambda: connection.fetchval(INDEX))
    operator.leads = False
    await other.close()

    def has_ended() -> bool:
        change = operator.database.priority_changes.last("jobs")
        return change is not None and not change.is_running

    await eventually(has_ended)
    assert not (await get_queue_config(connection, "jobs")).prioritized


async def test_ready_and_events_tell_of_the_priorities(
    operator: DeclaringOperator, connection: Connection, database_url: str
) -> None:
    """While the index is built, Ready stays true and says so; the status then has the bands."""
    found = Reconciled(operator.database, priorities={"targetSeconds": {"urgent": 2}})
    other = await asyncpg.connect(database_url)
    await other.execute(HOLD_SNAPSHOT)
    await found.is_operating()  # the other settings are written first
    assert await found.reason() == ("True", "PrioritiesChanging")
    assert found.reconciler.tick_seconds == 5
    await other.close()
    await eventually(found.is_operating)
    told = {reason: message for _, reason, message in found.cluster.events}
    assert told["PrioritiesSet"].startswith("The priorities of the queue are as declared.")
    assert found.reconciler.tick_seconds == 1, "it follows the shortest target"
    await connection.execute(
        "insert into pgmq.q_jobs (vt, message, headers) select now() - interval '900 s', '1', "
        "'{\"meshhook-priority\": 0}' from generate_series(1, 40)"
    )
    found.change(priorities={})
    await found.is_operating()
    status = found.reconciler._reporter.status
    assert status.queue is not None
    assert status.queue.priorities is not None
    urgent = status.queue.priorities["urgent"]
    assert (urgent.ready, urgent.target_seconds) == (40, 2)
    assert urgent.oldest_ready_seconds == pytest.approx(900, abs=100)
    decision = found.reconciler._workers.autoscaler.decision
    assert decision is not None
    assert (decision.band, decision.band_target_seconds) == (0, 2)


async def test_keys_and_priorities_replace_each_other(
    operator: DeclaringOperator, connection: Connection
) -> None:
    """In one change of the spec: what there was is turned off first, in both directions."""
    found = Reconciled(operator.database, keys={"maxRunning": 4})
    await eventually(found.is_operating)
    found.change(keys={"enabled": False}, priorities={})
    await eventually(found.is_operating)
    config = await get_queue_config(connection, "jobs")
    assert (config.keyed, config.prioritized) == (False, True)
    found.change(priorities={"enabled": False}, keys={})
    await eventually(found.is_operating)
    config = await get_queue_config(connection, "jobs")
    assert (config.keyed, config.prioritized) == (True, False)
    refused = {reason for _, reason, _ in found.cluster.events if reason.endswith("NotSet")}
    assert refused == set()


async def test_without_the_field_all_is_left(
    operator: DeclaringOperator, connection: Connection
) -> None:
    """A queue whose priorities were set by hand keeps them."""
    await set_queue_config(connection, "jobs", prioritized=True, urgent_slots=2)
    found = Reconciled(operator.database)
    await eventually(found.is_operating)
    config = await get_queue_config(connection, "jobs")
    assert (config.prioritized, config.urgent_slots) == (True, 2)
