"""Messages that are small where they are stored, and huge or unbearable where they are read."""

from __future__ import annotations

from typing import Any

import asyncpg

GIANTS = {
    # 75 KB that are 1.09 GB of text: more than PostgreSQL makes at once.
    "numbers past a gigabyte": "'[' || repeat('1e131071,', 8300) || '1]'",
    "numbers just below it": "'[' || repeat('1e131071,', 7000) || '1]'",
    "numbers close to 0": "'[' || repeat('1e-16383,', 60000) || '1]'",
    "zeros of many places": "'[' || repeat('0e-16383,', 60000) || '1]'",
    "a string": "'\"' || repeat('a', 100000000) || '\"'",
    "control characters": "'\"' || repeat('\\u0001', 30000000) || '\"'",
    "a list of nothing": "'[' || repeat('[],', 5000000) || '1]'",
}
"""SQL of the JSON of each, by what it holds; more than a worker reads, whatever its size."""

ODDITIES = {
    "one long number": "'[1e131071]'",
    "some long numbers": "'[' || repeat('1e131071,', 50) || '1]'",
    "a small number": "'{\"a\": 1e-16383}'",
    "a number of no value": "'{\"a\": 0e-16383}'",
    "deep": "repeat('[', 5000) || repeat(']', 5000)",
    "many keys": (
        "'{' || (select string_agg(format('\"%s\": 1', g), ',') from generate_series(1, 200000) g)"
        " || '}'"
    ),
    "duplicate keys": "'{' || repeat('\"a\": 1, ', 100000) || '\"a\": 2}'",
    "a megabyte": "'\"' || repeat('\\u00e9 x', 300000) || '\"'",
    "names of envelopes": '\'{"run_id": 1e131071, "payload": 1e131071, "project_id": "p"}\'',
}
"""SQL of the JSON of messages that a worker can read, and perhaps run."""


async def send(
    connection: asyncpg.Connection[Any],
    json_sql: str,
    *,
    count: int = 1,
    queue_name: str = "jobs",
    headers_sql: str = "null",
) -> list[int]:
    """Send messages as any client of PGMQ can, and return their ids."""
    rows = await connection.fetch(
        f"with made as materialized (select ({json_sql})::jsonb as m, ({headers_sql})::jsonb as h)"
        f" insert into pgmq.q_{queue_name} (vt, message, headers)"
        " select clock_timestamp(), m, h from made, generate_series(1, $1) returning msg_id",
        count,
        timeout=120,
    )
    return [row[0] for row in rows]
