"""What a statement did: its plan as PostgreSQL explains it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import asyncpg


async def explained(
    connection: asyncpg.Connection[Any], name: str, arguments: str
) -> dict[str, Any]:
    """Run a prepared statement, undo it, and return what it did."""
    execute = f"execute {name} ({arguments})"
    transaction = connection.transaction()
    await transaction.start()
    try:
        text = await connection.fetchval(
            f"explain (analyze, buffers, format json) {execute.removesuffix('()')}"
        )
    finally:
        await transaction.rollback()
    plan: dict[str, Any] = json.loads(text)[0]["Plan"]
    return plan


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return a plan and all that is below it."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def scans_of(plan: dict[str, Any], table: str = "q_jobs") -> set[str]:
    """Return how a plan reads a table."""
    return {
        node["Node Type"]
        for node in nodes(plan)
        if node.get("Relation Name") == table and node["Node Type"] != "ModifyTable"
    }


def buffers(plan: dict[str, Any]) -> int:
    """Return how many pages a statement looked at."""
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
