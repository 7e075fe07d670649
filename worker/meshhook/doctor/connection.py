"""The way to the database: a pooler that is not declared, wake-ups that nobody hears, clocks."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Any

from meshhook.doctor.finding import Finding, Severity, spelled
from meshhook.postgres.connecting import connect
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meshhook.doctor.case import Case

HEARD_SECONDS = 2.0
"""How long a notification may take."""
SKEW_SECONDS = 2.0
FULL_SHARE = 0.25
"""How full the server's queue of notifications may be; above a half no worker is woken."""


async def look_at_pooler(case: Case) -> Sequence[Finding]:
    """Find out whether a pooler is in between, and whether it is declared."""
    async with case.database.acquire() as connection:
        told = getattr(connection, "get_server_pid", lambda: None)()
        row = await connection.fetchrow(queries.load("examine_session"))
    is_there = told is not None and told != row["pid"]
    return list(judge_pooler(is_there=is_there, pooled=case.pooled, listens=bool(case.listen_url)))


def judge_pooler(*, is_there: bool, pooled: bool | None, listens: bool) -> Iterator[Finding]:
    """Judge what is between by what was declared; None means that nothing was."""
    if is_there and pooled is False:
        yield Finding(
            "pooler",
            Severity.WARNING,
            "",
            "a pooler is between this program and the database, and MESHHOOK_POOLED is not set: in "
            "transaction mode prepared statements and LISTEN fail",
            "export MESHHOOK_POOLED=true, and MESHHOOK_LISTEN_URL with a URL that leads to the "
            "server directly",
        )
    if is_there and pooled and not listens:
        yield Finding(
            "pooler",
            Severity.WARNING,
            "",
            "behind the pooler no wake-up is heard: jobs wait for the next poll, up to a second",
            "export MESHHOOK_LISTEN_URL with a URL that leads to the server directly",
        )
    if not is_there and pooled:
        yield Finding(
            "pooler",
            Severity.WARNING,
            "",
            "MESHHOOK_POOLED is set, and no pooler is in between: each statement is planned anew, "
            "and no wake-up is heard",
            "unset MESHHOOK_POOLED",
        )


async def look_at_clock(case: Case) -> Sequence[Finding]:
    """Compare the clock of this host with that of the database."""
    before = time.time()
    (row,) = await case.fetch(queries.load("examine_clock"))
    return list(judge_clock(row["at"], before, time.time()))


def judge_clock(database: float, before: float, after: float) -> Iterator[Finding]:
    """Judge the database's time, read between two times of this host; seconds since 1970."""
    skew = max(before - database, database - after, 0.0)
    if skew >= SKEW_SECONDS:
        yield Finding(
            "clock",
            Severity.WARNING,
            "",
            f"the clocks of this host and of the database differ by {spelled(skew)}. Jobs run by "
            "the database's; logs, traces and certificates go by both",
            "let both follow NTP: chronyc tracking",
        )


async def look_at_wakeups(case: Case) -> Sequence[Finding]:
    """Send a notification and see whether it is heard where workers listen."""
    (row,) = await case.fetch(queries.load("examine_notifications"))
    found = list(judge_notifications(row))
    if row["may_notify"] and case.listen_url and not await _is_heard(case, case.listen_url):
        found.append(
            Finding(
                "wakeups",
                Severity.WARNING,
                "",
                f"a notification was not heard within {HEARD_SECONDS:g} seconds over the URL that "
                "workers listen with: it leads through a pooler, or to another server",
                "let MESHHOOK_LISTEN_URL lead to the primary server directly",
            )
        )
    return found


def judge_notifications(row: Mapping[str, Any]) -> Iterator[Finding]:
    """Judge whether workers are woken at all."""
    if row["usage"] >= FULL_SHARE:
        yield Finding(
            "wakeups",
            Severity.CRITICAL if row["usage"] >= 2 * FULL_SHARE else Severity.WARNING,
            "",
            f"the server's queue of notifications is {row['usage']:.0%} full: a session that "
            "listens has not left its transaction. When it is full, transactions that notify fail",
            "end the session: select pid, application_name, xact_start from pg_stat_activity "
            "where backend_type = 'client backend' order by xact_start; "
            "select pg_terminate_backend(PID);",
        )
    elif not row["may_notify"]:
        yield Finding(
            "wakeups",
            Severity.WARNING,
            "",
            f"workers are not woken, since {row['reason']}: jobs wait for the next poll, up to a "
            "second",
            "if no queue's messages are sent in prepared transactions: "
            "alter database NAME set meshhook.notify = on",
        )


async def _is_heard(case: Case, url: str) -> bool:
    channel = f"meshhook_doctor_{uuid.uuid4().hex}"
    heard = asyncio.Event()
    listener = await connect(url, application_name="meshhook doctor")
    try:
        await listener.add_listener(channel, lambda *_: heard.set())
        await case.fetch(queries.load("examine_hearing"), channel)
        async with asyncio.timeout(HEARD_SECONDS):
            await heard.wait()
    except TimeoutError:
        return False
    else:
        return True
    finally:
        await listener.close(timeout=HEARD_SECONDS)
