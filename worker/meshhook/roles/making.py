"""Making roles and granting to them, in one transaction each."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshhook.errors import DatabaseLockedError, InvalidSettingError
from meshhook.postgres.database import LONG_ANSWER_TIMEOUT_SECONDS, Database
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
        queues: the queues that it is for; none means all.
        created: whether it is new.
        password: `set`, `kept` if it had one already, or None if none was given.
        missing_queues: those of `queues` that are not there; it gets its rights on them with them.
    """

    role: str
    kind: RoleKind
    queues: tuple[str, ...]
    created: bool
    password: str | None
    missing_queues: tuple[str, ...] = ()


async def create_role(
    database: DatabaseSource,
    kind: RoleKind,
    *,
    name: str | None = None,
    queues: Sequence[str] = (),
    login: Login | None = None,
    reset_password: bool = False,
) -> RoleReport:
    """Make a role if it is not there, and give it exactly the rights of its kind.

    Safe to repeat. The password reaches the server as a SCRAM-SHA-256 verifier only.

    Args:
        database: of the queues, as a superuser or, where the role is there, the schemas' owner.
        kind: what it is for.
        name: its name. Default: the login's user, else `meshhook_KIND` and its queues.
        queues: the queues that it is for. Default: all, those to come too.
        login: who logs in as it; a role with no login of its own is for others to be granted.
        reset_password: whether a role that can log in already gets the password of `login`.
            Default false.

    Raises:
        InvalidQueueNameError, InvalidSettingError: if a name is wrong, or that of `login` another.
        DatabaseError: if the server refuses, for example since the caller may not make roles.
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


async def grant_role(
    database: DatabaseSource, kind: RoleKind, *, name: str, queues: Sequence[str] = ()
) -> RoleReport:
    """Give a role that is there exactly the rights of its kinds, of which this is one.

    Args:
        database: of the queues, as the schemas' owner or a superuser.
        kind: what it is for, beside the kinds that it has been granted before.
        name: of the role.
        queues: the queues that it is for, as this kind. Default: all, those to come too.

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
            # Others wait behind a lock that is waited for: they are let pass in between.
            await asyncio.sleep(pause_seconds)
    return await _once(source, work)


async def _once(source: Database, work: Any) -> RoleReport:
    report: RoleReport = await source.run_in_transaction(
        work, answer_timeout_seconds=LONG_ANSWER_TIMEOUT_SECONDS
    )
    return report
