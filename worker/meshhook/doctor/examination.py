"""Running all checks, each on its own: one that fails says so, and the rest goes on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg

from meshhook.doctor import (
    connection,
    history,
    indexes,
    keys,
    queue_settings,
    queues,
    retries,
    rights,
    schedules,
    schema,
    server,
    transactions,
    vacuum,
    workers,
)
from meshhook.doctor.case import Case, Check
from meshhook.doctor.finding import Finding, Severity
from meshhook.errors import MeshHookError, SchemaMissingError
from meshhook.names import validate_queue_name
from meshhook.postgres.database import Database, takes_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshhook.postgres.database import DatabaseSource

WHOLE_CHECK_SECONDS = 20.0
"""How long a check of several statements may take."""

CHECKS: tuple[Check, ...] = (
    Check("schema", "the schema fits this version of the library", schema.look),
    Check("server", "the server's settings lose nothing", server.look),
    Check("pooler", "the connection is as declared", connection.look_at_pooler),
    Check("clock", "the clocks agree", connection.look_at_clock),
    Check("wakeups", "workers are woken", connection.look_at_wakeups),
    Check("transactions", "nobody holds an old transaction id", transactions.look_at_holders),
    Check("wraparound", "transaction ids are far from running out", transactions.look_at_ids),
    Check("vacuum", "autovacuum is on and keeps up", vacuum.look_at_vacuum),
    Check("bloat", "no table or index is mostly empty space", vacuum.look_at_bloat),
    Check("indexes", "all indexes are there and valid", indexes.look),
    Check("history", "the history has its partitions", history.look),
    Check("rights", "no role lacks rights of its kind", rights.look),
    Check("queues", "no queue waits for nobody", queues.look),
    Check("workers", "all workers are of the version of the schema", workers.look),
    Check("replicas", "there are connections for all replicas", workers.look_at_replicas),
    Check("settings", "no settings of a queue fight each other", queue_settings.look),
    Check("retries", "retries can happen, and dead letters are followed", retries.look),
    Check("schedules", "no schedule fails or is late", schedules.look),
    Check("keys", "no key has been held for long", keys.look_at_holds),
    Check("unique_keys", "unique keys are of jobs that exist", keys.look_at_unique_keys),
)

_RANK = {severity: place for place, severity in enumerate(Severity)}


@takes_url
async def examine(
    database: DatabaseSource,
    queue_names: Sequence[str] | None = None,
    *,
    pooled: bool | None = None,
    listen_url: str | None = None,
) -> list[Finding]:
    """Examine a database and its queues, and return what was found, the worst first.

    It changes nothing. Each statement takes at most 2 seconds on the server. What this role may
    not see is a finding of its own, and a check that found nothing is one of severity `ok`.

    Args:
        database: where the queues are.
        queue_names: the queues to look at. Default: all.
        pooled: whether a pooler in transaction mode is said to be in between. Default: unknown.
        listen_url: the URL that workers listen with. Default: none, and whether notifications are
            heard is not tried.

    Raises:
        InvalidQueueNameError: if a name is not a valid queue name.
    """
    names = None if queue_names is None else tuple(validate_queue_name(n) for n in queue_names)
    case = Case(Database.of(database), names or None, pooled=pooled, listen_url=listen_url)
    found: list[Finding] = []
    for check in CHECKS:
        found += await _run(check, case)
    return sorted(found, key=lambda each: _RANK[each.severity])


async def _run(check: Check, case: Case) -> Sequence[Finding]:
    try:
        async with asyncio.timeout(WHOLE_CHECK_SECONDS):
            found = await check.look(case)
    except SchemaMissingError:
        reason, remedy = "the schema is missing, or not up to date", "meshhook migrate"
    except (MeshHookError, TimeoutError) as error:
        reason, remedy = str(error) or "it took too long", "see the reason; the rest was examined"
        if isinstance(error.__cause__, asyncpg.InsufficientPrivilegeError):
            remedy = "examine with a role that may see it: meshhook roles create reader"
        elif isinstance(error.__cause__, asyncpg.QueryCanceledError):
            remedy = "try again when the server is less busy, or name fewer queues"
    else:
        return found or [Finding(check.name, Severity.OK, "", check.fine, "")]
    message = f"could not be checked: {reason}"
    return [Finding(check.name, Severity.WARNING, "", message, remedy)]
