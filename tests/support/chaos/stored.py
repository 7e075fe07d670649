"""What the database says of the jobs of a queue."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from support.chaos.servers import run

_HISTORY = """
select msg_id, outcome, attempt, run_id, worker from meshhook.job_attempts where queue = $1
"""
_MESSAGES = "select coalesce(message->>'run_id', '') from pgmq.{}"


@dataclass(frozen=True)
class Stored:
    """All of it, at one moment; messages and effects as the run_ids of their jobs."""

    history: list[asyncpg.Record]
    live: list[str]
    dead: list[str]
    effects: list[str]

    @classmethod
    def read(cls, url: str, queue_name: str) -> Stored:
        """Read it."""
        return run(cls._read(url, queue_name))

    @classmethod
    async def _read(cls, url: str, queue_name: str) -> Stored:
        connection = await asyncpg.connect(url, timeout=15)

        async def column(sql: str) -> list[str]:
            return [row[0] for row in await connection.fetch(sql)]

        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                has_effects = await connection.fetchval("select to_regclass('effects') is not null")
                return cls(
                    history=await connection.fetch(_HISTORY, queue_name),
                    live=await column(_MESSAGES.format(f"q_{queue_name}")),
                    dead=await column(_MESSAGES.format(f"q_{queue_name}_dlq")),
                    effects=await column("select run_id from effects") if has_effects else [],
                )
        finally:
            await connection.close()
