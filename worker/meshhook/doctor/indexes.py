"""Indexes that are missing, or that a failed build has left invalid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshhook.doctor.finding import Finding, Severity
from meshhook.names import validate_queue_name
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meshhook.doctor.case import Case


_BESIDE_OTHERS = True
"""The statements that build beside whoever uses the queue."""


async def look(case: Case) -> Sequence[Finding]:
    """Find indexes that are invalid or missing."""
    found = [*judge(await case.fetch(queries.load("examine_indexes"), case.wanted))]
    for config in await case.configs():
        if config.keyed:
            sql = queries.load("key_index_statements")
            place = (config.keyed, config.key_path, _BESIDE_OTHERS, config.ordered)
            statements = await case.fetch(sql, config.queue, *place)
            found += judge_settings(config.queue, "keys", "keyed=true", statements)
        if config.prioritized:
            sql = queries.load("priority_index_statements")
            statements = await case.fetch(sql, config.queue, config.prioritized, _BESIDE_OTHERS)
            found += judge_settings(config.queue, "priorities", "prioritized=true", statements)
        if config.lookup_by:
            sql = queries.load("lookup_index_statements")
            ids = list(config.lookup_by)
            statements = await case.fetch(sql, config.queue, ids, _BESIDE_OTHERS)
            setting = f"lookup_by={','.join(ids)}"
            found += judge_settings(config.queue, "lookups", setting, statements)
    return found


def judge_settings(
    queue: str, what: str, setting: str, statements: Sequence[Mapping[str, Any]]
) -> Iterator[Finding]:
    """Judge the statements that would build what a setting needs."""
    if any(row["statement"].lstrip().lower().startswith("create") for row in statements):
        yield Finding(
            "indexes",
            Severity.WARNING if what == "lookups" else Severity.CRITICAL,
            f"queue {queue}",
            f"an index for its {what} is missing: what needs it reads the whole queue",
            f"meshhook queue set {queue} {setting}",
        )


def judge(rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Judge the indexes of tables of queues."""
    for row in rows:
        if row["is_missing"]:
            queue = validate_queue_name(row["queue"])
            yield Finding(
                "indexes",
                Severity.CRITICAL,
                row["name"],
                "is missing: each claim reads the whole queue",
                f"create index concurrently {row['name'].removeprefix('pgmq.')} "
                f'on pgmq."q_{queue}" (vt);',
            )
        else:
            yield Finding(
                "indexes",
                Severity.WARNING,
                row["name"],
                "is invalid: a build of it was interrupted. It costs writes and serves no reads",
                f"reindex index concurrently {row['name']};  or, if it is not needed: "
                f"drop index concurrently {row['name']};",
            )
