"""Whether the database has the migrations that this version needs, for a worker's readiness."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from meshhook.errors import DatabaseError
from meshhook.schema import check_schema

if TYPE_CHECKING:
    from meshhook.worker.connections import WorkerConnection

RECHECK_SECONDS = 10.0


class SchemaWatch:
    """Checks the migrations until they are all there. They never go away again."""

    def __init__(self, connection: WorkerConnection) -> None:
        self._connection = connection
        self.fault: str | None = "not checked yet"
        """What is missing, None if nothing is. Any thread may look."""

    async def check(self) -> None:
        """Look once."""
        try:
            await check_schema(self._connection)
        except DatabaseError as error:
            self.fault = str(error)
        else:
            self.fault = None

    async def run(self) -> None:
        """Look again from time to time, until cancelled."""
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            if self.fault is not None:
                await self.check()
