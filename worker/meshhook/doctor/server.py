"""Settings of the server, the database and its roles that lose jobs or cut statements off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshhook.doctor.finding import Finding, Severity
from meshhook.roles.statements import quoted_identifier
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meshhook.doctor.case import Case

SHORT_SECONDS = 5.0
"""A shorter time limit of statements cuts off claims and settlements on a busy server."""
FULL_SHARE = 0.8

_MUST_BE_ON = {
    "fsync": "after a crash the database may be damaged",
    "full_page_writes": "after a crash the database may be damaged",
}


async def look(case: Case) -> Sequence[Finding]:
    """Judge the settings of the server, and what is set for roles."""
    (row,) = await case.fetch(queries.load("examine_server"))
    roles = await case.fetch(queries.load("examine_role_settings"))
    limits = await case.fetch(queries.load("examine_connection_limits"))
    return [*judge(row), *judge_roles(roles), *judge_limits(limits)]


def judge_limits(rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Judge the connections of this database and of roles by what is allowed to them."""
    for row in rows:
        if row["used"] < FULL_SHARE * row["most"]:
            continue
        name = quoted_identifier(row["name"])
        yield Finding(
            "server",
            Severity.CRITICAL if row["used"] >= row["most"] else Severity.WARNING,
            f"{row['kind']} {row['name']}",
            f"{row['used']} of the {row['most']} connections that it may have are in use: new "
            "workers may not get one",
            f"alter {row['kind']} {name} connection limit {2 * row['most'] or -1};  or lower "
            "maxReplicas, or use a pooler (MESHHOOK_POOLED)",
        )


def judge(row: Mapping[str, Any]) -> Iterator[Finding]:
    """Judge the settings of the server."""
    if row["is_replica"]:
        yield Finding(
            "server",
            Severity.CRITICAL,
            "",
            "this is a replica, which takes no writes",
            "use the URL of the primary server",
        )
    for name, harm in _MUST_BE_ON.items():
        if row[name] == "off":
            yield Finding(
                "server",
                Severity.CRITICAL,
                "",
                f"{name} is off: {harm}",
                f"alter system set {name} = on; select pg_reload_conf();",
            )
    if row["synchronous_commit"] == "off":
        yield Finding(
            "server",
            Severity.WARNING,
            "",
            "synchronous_commit is off: after a crash, jobs that were confirmed may be gone, and "
            "jobs that were done may run again",
            "alter system set synchronous_commit = on; select pg_reload_conf();  "
            "and reset it for databases and roles",
        )
    if row["used"] >= FULL_SHARE * row["connections"]:
        yield Finding(
            "server",
            Severity.CRITICAL if row["used"] >= row["connections"] else Severity.WARNING,
            "",
            f"{row['used']} of {row['connections']} connections are in use: new workers may not "
            "get one",
            "lower maxReplicas or use a pooler (MESHHOOK_POOLED), or raise max_connections",
        )


def judge_roles(rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Judge time limits that are set for a role, or for all."""
    for row in rows:
        if not 0 < row["seconds"] < SHORT_SECONDS:
            continue
        name = row["role"]
        yield Finding(
            "server",
            Severity.WARNING,
            "all roles" if name is None else f"role {name}",
            f"{row['setting']} is {row['seconds']:g} s: statements and transactions of workers are "
            "cut off when the server is busy",
            f"alter database {quoted_identifier(row['database'])} set {row['setting']} = '60s'"
            if name is None
            else f"alter role {quoted_identifier(name)} set {row['setting']} = '60s'",
        )
