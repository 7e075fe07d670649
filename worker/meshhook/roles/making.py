"""Creating roles and granting to them, each in one transaction."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshhook.errors import DatabaseLockedError, InvalidSettingError
from meshhook.postgres.database import LONG_ANSWER_TIMEOUT_SECONDS, Database, takes_url
from meshhook.role_kinds import RoleKind
from meshhook.roles.login import Login, scram_verifier
from meshhook.roles.statements import (
    ONE_AT_A_TIME,
    PATH,
    checked_queues,
    default_role_name,
    grant_statements,
    quoted_identifier,
    quoted_literal,
    role_statements,
    validate_role_name,
)
from meshhook.store import queries
from meshhook.store.changes import change

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from meshhook.postgres.database import DatabaseSource

_LOCK_PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class RoleReport:
    """What was done to a role.

    Attributes:
        role: its name.
        kind: its kind.
        queues: the queues that it is for; empty means all.
        created: whether it is new.
        password: `set`, `kept` if it had one already, or None if none was given.
        missing_queues: queues that do not exist yet; it gets its rights when they are created.
    """

    role: str
    kind: RoleKind
    queues: tuple[str, ...]
    created: bool
    password: str | None
    missing_queues: tuple[str, ...] = ()


@takes_url
async def create_role(
    database: DatabaseSource,
    kind: RoleKind,
    *,
    name: str | None = None,
    queues: Sequence[str] = (),
    login: Login | None = None,
    reset_password: bool = False,
) -> RoleReport:
    """Create a role if it does not exist, and give it exactly the rights of its kind.

    It is safe to repeat. The password is sent to the server only as a SCRAM-SHA-256 verifier.

    Args:
        database: connected as a superuser or, if the role exists, as the owner of the schemas.
        kind: the kind of role.
        name: its name. Default: the login's user, or `meshhook_KIND` and its queues.
        queues: the queues that it is for. Default: all, including future ones.
        login: its user name and password. A role without a login can be granted to others.
        reset_password: whether to set the password of a role that can log in already.
            Default false.

    Raises:
        InvalidQueueNameError, InvalidSettingError: if a name is wrong, or `login` has another user.
        DatabaseError: if the server refuses, for example because the caller may not create roles.
        SchemaMissingError: if the migrations have not run.
    """
    queues = checked_queues(kind, queues)
    if name is not None and login is not None and name != login.user:
        raise InvalidSettingError(f"role {name!r} and the URL's user {login.user!r} differ")
    name = name or (login.user if login else default_role_name(kind, queues))
    validate_role_name(name)

    async def work(connection: Any) -> RoleReport:
        await _execute(connection, [ONE_AT_A_TIME])
        found = await connection.fetchrow(queries.load("find_role"), name)
        password = None
        if found is None:
            await _execute(connection, role_statements(name))
        if login is not None:
            is_set = found is None or not found["can_login"] or reset_password
            password = "set" if is_set else "kept"
            if is_set:
                verifier = quoted_literal(scram_verifier(login.password))
                sql = f"alter role {quoted_identifier(name)} login password {verifier}"
                await _execute(connection, [sql])
        await _execute(connection, grant_statements(kind, name, queues))
        missing = await _missing(connection, queues)
        return RoleReport(name, kind, queues, found is None, password, missing)

    return await _in_transaction(database, work)


@takes_url
async def grant_role(
    database: DatabaseSource, kind: RoleKind, *, name: str, queues: Sequence[str] = ()
) -> RoleReport:
    """Add a kind to an existing role, and give it exactly the rights of all its kinds.

    Args:
        database: connected as the owner of the schemas or a superuser.
        kind: the kind, in addition to those that it has been granted before.
        name: the role's name.
        queues: the queues that it is for, as this kind. Default: all, including future ones.

    Raises:
        InvalidQueueNameError, InvalidSettingError: if a name is wrong, or there is no such role.
        DatabaseError: if the server refuses.
        SchemaMissingError: if the migrations have not run.
    """
    queues = checked_queues(kind, queues)
    validate_role_name(name)

    async def work(connection: Any) -> RoleReport:
        await _execute(connection, [ONE_AT_A_TIME])
        if await connection.fetchrow(queries.load("find_role"), name) is None:
            raise InvalidSettingError(
                f"role {name!r} does not exist; make it: meshhook roles create {kind} --name {name}"
            )
        await _execute(connection, grant_statements(kind, name, queues))
        missing = await _missing(connection, queues)
        return RoleReport(name, kind, queues, False, None, missing)  # noqa: FBT003 - as it has them

    return await _in_transaction(database, work)


async def _missing(connection: Any, queues: Sequence[str]) -> tuple[str, ...]:
    rows = await connection.fetch(queries.load("list_queue_names")) if queues else []
    there = {row["queue"] for row in rows if row["is_complete"]}
    return tuple(each for each in queues if each not in there)


async def _execute(connection: Any, statements: Sequence[str]) -> None:
    await connection.execute(PATH)
    for statement in statements:
        await connection.execute(statement)


async def _in_transaction(database: DatabaseSource, work: Any) -> RoleReport:
    source = Database.of(database)
    for pause_seconds in _LOCK_PAUSES_SECONDS:
        try:
            return await _once(source, work)
        except DatabaseLockedError:
            # Later statements queue up behind a waiting lock request; the pauses let them pass.
            await asyncio.sleep(pause_seconds)
    return await _once(source, work)


async def _once(source: Database, work: Any) -> RoleReport:
    report: RoleReport = await change(
        source, work, answer_timeout_seconds=LONG_ANSWER_TIMEOUT_SECONDS
    )
    return report
