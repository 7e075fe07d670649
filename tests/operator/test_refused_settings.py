"""What cannot be written to a queue is told, and the queue is scaled all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeAlias

import asyncpg
import pytest

from meshhook import get_queue_config
from meshhook.errors import DatabaseError
from meshhook.role_kinds import RoleKind
from meshhook_operator.databases import database as database_module
from meshhook_operator.databases.database import QueueDatabase
from meshhook_operator.reconciliation import queue_in_database
from support.declared_jobschedules import make
from support.reconciled import Reconciled
from support.roles import Roles
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("queue_name")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@pytest.fixture
async def own(database_url: str) -> AsyncIterator[QueueDatabase]:
    """The operator's view of the database."""
    found = make(database_url)
    yield found
    await found.close()


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was refused is tried again with each tick."""
    monkeypatch.setattr(queue_in_database, "FIRST_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(queue_in_database, "MAX_RETRY_SECONDS", 0.001)


@pytest.mark.usefixtures("_at_once")
async def test_a_role_that_may_not_set_the_queue_up(
    connection: Connection, database_url: str
) -> None:
    """Ready names the database's reason; once the role has the right, all is as declared."""
    async with Roles(database_url, connection) as roles:
        name = await roles.make(RoleKind.OPERATOR)
        await connection.execute(f"revoke update on meshhook.queue_config from {name}")
        limited = make(roles.url(name))
        try:
            found = Reconciled(limited, retry={"maxAttempts": 9})
            assert await found.reason() == ("False", "SettingsNotSet")
            assert found.reconciler._workers.decision is not None, "it is scaled"
            await connection.execute(f"grant update on meshhook.queue_config to {name}")
            await eventually(found.is_operating)
        finally:
            await limited.close()
    assert (await get_queue_config(connection, "jobs")).max_retry_attempts == 9


@pytest.mark.usefixtures("_at_once")
async def test_a_queue_whose_settings_somebody_holds(
    own: QueueDatabase, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that was left open delays the settings, and not the scaling."""
    found = Reconciled(own, retry={"maxAttempts": 9})
    await eventually(found.is_operating)
    monkeypatch.setattr(database_module, "CHANGE_TIMEOUT_SECONDS", 1.0)
    other = await asyncpg.connect(database_url)
    try:
        await other.execute("begin; select from meshhook.queue_config for update")
        found.change(retry={"maxAttempts": 8})
        before = found.reconciler._workers.decision
        assert await found.reason() == ("False", "SettingsNotSet")
        assert found.reconciler._workers.decision is not before, "it is scaled"
    finally:
        await other.close()
    await eventually(found.is_operating)


async def test_what_was_refused_is_not_tried_with_each_tick(
    own: QueueDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But at once after another change of the spec."""
    found = Reconciled(own)
    await eventually(found.is_operating)
    monkeypatch.setattr(queue_in_database, "FIRST_RETRY_SECONDS", 3_600.0)
    monkeypatch.setattr(queue_in_database, "MAX_RETRY_SECONDS", 3_600.0)
    with monkeypatch.context() as patched:
        patched.setattr(database_module, "set_queue_config", _refuse)
        found.change(retry={"maxAttempts": 9})
        assert await found.reason() == ("False", "SettingsNotSet")
    assert await found.reason() == ("False", "SettingsNotSet")
    found.change(retry={"maxAttempts": 8})
    await found.reason()
    assert await found.reason() == ("True", "Operating")


async def _refuse(*_: object, **__: object) -> None:
    raise DatabaseError("not now")
