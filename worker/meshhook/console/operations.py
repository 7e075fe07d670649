"""Changes of many dead letters: chunk by chunk in the background, with their progress."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from meshhook.actors import one_operation
from meshhook.dead_letter_search import DeadLetterFilter, match_dead_letters
from meshhook.dead_letters import MAX_DEAD_LETTERS, DLQService
from meshhook.errors import MeshHookError
from meshhook.observability.loggers import get_logger

if TYPE_CHECKING:
    from meshhook.postgres.database import Database

SEARCH_SECONDS = 600.0
"""How long an operation may look for what fits."""
MAX_RUNNING = 8
"""How many operations run at once."""
MATCHED = "matched"
"""What the audit log calls the number of dead letters that fit when an operation began."""
_MAX_KEPT = 100

_log = get_logger("meshhook.console")


class Action(StrEnum):
    """What is done with dead letters."""

    REPLAY = "replay"
    DELETE = "delete"

    @property
    def done(self) -> str:
        """The word for what was done."""
        return "replayed" if self is Action.REPLAY else "deleted"


@dataclass(slots=True, kw_only=True)
class Operation:
    """A change of all dead letters that fit, and how far it has come."""

    id: str
    action: Action
    queue: str
    wanted: DeadLetterFilter
    up_to_id: int
    """Those with higher ids came later, and stay."""
    user: str
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    finished_at: datetime | None = None
    matched: int | None = None
    """How many fit; None while it looks for them."""
    looked_at: int = 0
    """How many of those it has come to."""
    changed: int = 0
    """How many it has replayed or deleted."""
    new_jobs: list[int] = field(default_factory=list)
    """The first jobs that it made of dead letters, up to 1,000: what comes of them is shown."""
    error: str | None = None
    """Why it ended early."""
    is_complete: bool = True
    """Whether all that fit were found."""

    @property
    def is_running(self) -> bool:
        """Whether it goes on."""
        return self.finished_at is None

    @property
    def skipped(self) -> int:
        """How many it came to that others had changed, or whose unique key another job has."""
        return self.looked_at - self.changed


class TooManyOperationsError(MeshHookError):
    """An operation that was not started, because as many run as may."""

    def __init__(self) -> None:
        """Say what to do."""
        super().__init__(
            f"{MAX_RUNNING} operations are running, and no more are started; try again when one "
            "has finished"
        )


class Operations:
    """Runs operations, and keeps the last hundred to be looked at."""

    def __init__(self, database: Database) -> None:
        """Take the database."""
        self._database = database
        self._kept: OrderedDict[str, Operation] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(
        self, action: Action, queue: str, wanted: DeadLetterFilter, *, up_to_id: int, user: str
    ) -> Operation:
        """Start an operation, and return it.

        Raises:
            TooManyOperationsError: if as many run as may.
        """
        if len(self._tasks) >= MAX_RUNNING:
            raise TooManyOperationsError
        operation = Operation(
            id=str(uuid4()),
            action=action,
            queue=queue,
            wanted=wanted,
            up_to_id=up_to_id,
            user=user,
        )
        self._kept[operation.id] = operation
        while len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)
        task = asyncio.create_task(self._run(operation), name=f"{action} {operation.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return operation

    async def wait(self, operation: Operation, seconds: float) -> None:
        """Wait until an operation has ended, for so long at the most."""
        of_operation = [each for each in self._tasks if each.get_name().endswith(operation.id)]
        if of_operation:
            await asyncio.wait(of_operation, timeout=seconds)

    def get(self, operation_id: str) -> Operation | None:
        """Return an operation; None if it is not known any more."""
        return self._kept.get(operation_id)

    async def close(self) -> None:
        """Stop what runs, between two chunks; what was done stays done."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, operation: Operation) -> None:
        try:
            await self._change(operation)
        except MeshHookError as error:
            operation.error = str(error)
        except asyncio.CancelledError:
            operation.error = "the console was stopped"
            raise
        except Exception:  # noqa: BLE001 - whoever waits for the result sees that there is none
            operation.error = "an error in the console; its log says more"
            _log.exception("an operation of the console failed")
        finally:
            operation.finished_at = datetime.now(UTC)
            _log.info(
                "an operation of the console ended",
                action=str(operation.action),
                queue=operation.queue,
                user=operation.user,
                matched=operation.matched,
                changed=operation.changed,
                error=operation.error,
            )

    async def _change(self, operation: Operation) -> None:
        found = await match_dead_letters(
            self._database,
            operation.queue,
            operation.wanted,
            up_to_id=operation.up_to_id,
            search_seconds=SEARCH_SECONDS,
        )
        # Oldest first, so that they run in the order in which they were enqueued.
        ids = found.ids[::-1]
        operation.matched, operation.is_complete = len(ids), found.is_complete
        service = DLQService(self._database, operation.queue)
        # The audit log shows all chunks as one change, and of how many: so it tells of one that
        # was broken off, whatever became of this process.
        asked = operation.wanted.fields() | {MATCHED: str(len(ids))}
        with one_operation(UUID(operation.id), **asked):
            for start in range(0, len(ids), MAX_DEAD_LETTERS):
                chunk = ids[start : start + MAX_DEAD_LETTERS]
                if operation.action is Action.REPLAY:
                    replayed = await service.replay_multiple_jobs(chunk)
                    operation.changed += len(replayed)
                    if not operation.new_jobs:
                        operation.new_jobs = [msg_id for _, msg_id in replayed]
                else:
                    operation.changed += len(await service.delete_multiple_jobs(chunk))
                operation.looked_at += len(chunk)
