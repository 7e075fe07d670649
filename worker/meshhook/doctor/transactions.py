"""Old transactions, which keep dead rows from being removed, and transaction ids that run out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshhook.doctor.finding import Finding, Severity, spelled
from meshhook.roles.statements import quoted_identifier, quoted_literal
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meshhook.doctor.case import Case

OLD_SECONDS = 300.0
VERY_OLD_SECONDS = 3_600.0
OLD_TRANSACTIONS = 10_000_000
"""How many transaction ids a holder may be behind before it counts as old, whatever its age."""
WORRYING_IDS = 500_000_000
"""From that age of the oldest transaction id on, the server does not keep up with freezing."""
DANGEROUS_IDS = 1_200_000_000
"""At 2.1 thousand million the server takes no more writes."""


async def look_at_holders(case: Case) -> Sequence[Finding]:
    """Find who holds old transaction ids."""
    return list(judge_holders(await case.fetch(queries.load("examine_transactions"))))


def judge_holders(rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Judge sessions, prepared transactions, replication slots and standbys."""
    for row in rows:
        seconds, behind = row["seconds"] or 0.0, row["behind"] or 0
        if row["kind"] == "hidden":
            yield Finding(
                "transactions",
                Severity.WARNING,
                "",
                f"{row['behind']} sessions of other roles are hidden from this role",
                "grant pg_read_all_stats to it, or examine as the owner",
            )
            continue
        if seconds < OLD_SECONDS and behind < OLD_TRANSACTIONS:
            continue
        is_bad = seconds >= VERY_OLD_SECONDS or behind >= 10 * OLD_TRANSACTIONS
        words, remedy = _HOLDERS[row["kind"]](row)
        yield Finding(
            "transactions",
            Severity.CRITICAL if is_bad else Severity.WARNING,
            words,
            f"has held a transaction id for {spelled(seconds)}, and {behind:,} came since: until "
            "it ends, dead rows of every queue stay, and claims slow down",
            remedy,
        )


async def look_at_ids(case: Case) -> Sequence[Finding]:
    """Find out how far transaction ids are from running out."""
    return list(judge_ids(await case.fetch(queries.load("examine_transaction_ids"))))


def judge_ids(rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Judge the age of the oldest transaction id, and of the oldest multixact id."""
    for row in rows:
        if row["age"] < WORRYING_IDS:
            continue
        yield Finding(
            "wraparound",
            Severity.CRITICAL if row["age"] >= DANGEROUS_IDS else Severity.WARNING,
            f"database {row['name']}",
            f"its oldest {row['kind']} id is {row['age']:,} ids old; at about 2,100,000,000 the "
            "server takes no more writes",
            "end what holds old transaction ids (check transactions), then run as a superuser: "
            "vacuum (freeze, verbose)",
        )


def _session(row: Mapping[str, Any]) -> tuple[str, str]:
    name = f" ({row['name']})" if row["name"] else ""
    return f"session {row['pid']}{name}, {row['state'] or 'at work'}", (
        f"select pg_catalog.pg_terminate_backend({row['pid']});  "
        "and set idle_in_transaction_session_timeout"
    )


def _prepared(row: Mapping[str, Any]) -> tuple[str, str]:
    name = row["name"]
    return f"prepared transaction {name}", f"rollback prepared {quoted_literal(name)};"


def _slot(row: Mapping[str, Any]) -> tuple[str, str]:
    return f"replication slot {row['name']}", (
        "let its consumer catch up, or if there is none: "
        f"select pg_drop_replication_slot({quoted_literal(row['name'])});"
    )


def _standby(row: Mapping[str, Any]) -> tuple[str, str]:
    return f"standby {quoted_identifier(row['name'] or '')}", (
        "end the long query there, or set hot_standby_feedback = off on it"
    )


_HOLDERS = {
    "session": _session,
    "prepared": _prepared,
    "slot": _slot,
    "standby": _standby,
}
