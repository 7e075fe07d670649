"""Reading and changing the queues of a test's database over one connection."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from meshhook.administration import describe_tables
from meshhook.dead_letters import MAX_DEAD_LETTERS, DLQService
from meshhook.names import validate_queue_name, wake_channel
from meshhook.store import queries
from meshhook.testing.enqueued import EnqueuedJob, plain_body

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshhook.encryption.key_ring import KeyRing
    from meshhook.postgres.database import Database
    from meshhook.store.dead_letter_rows import DeadLetterJob

WAITING_STATES = ("scheduled", "retrying")
"""The states of messages that are not due yet."""
LEASED_STATE = "running"
"""The state of a message that is leased."""


@dataclass(frozen=True, slots=True)
class StateCount:
    """The messages of some queues that are in one state."""

    messages: int
    """How many there are."""
    due_in_seconds: float
    """In how many seconds the first of them is due."""


class DatabaseQueues:
    """One queue, several, or all queues of a database."""

    def __init__(
        self, database: Database, names: Sequence[str], encryption: KeyRing | None = None
    ) -> None:
        """Take a database with a single connection, the names of existing queues, and keys."""
        self.names = tuple(names)
        self._encryption = encryption
        self._database = database
        self._held: dict[str, list[tuple[int, int]]] = {}
        """Leases held by others, by queue: msg_id and read_ct."""

    @classmethod
    async def find(
        cls, database: Database, queue: str | None, encryption: KeyRing | None = None
    ) -> DatabaseQueues:
        """Return one queue, or all of them.

        Raises:
            InvalidQueueNameError, QueueNotFoundError: if there is no queue of that name.
        """
        if encryption is not None:
            await encryption.prepare()
        if queue is None:
            rows = await database.fetch(queries.load("list_queue_names"))
            names = [row["queue"] for row in rows if row["is_complete"]]
            return cls(database, names, encryption)
        await describe_tables(database, validate_queue_name(queue))
        return cls(database, [queue], encryption)

    async def jobs(self) -> list[EnqueuedJob]:
        """Return all jobs in the queues, ordered by queue and msg_id."""
        return [
            EnqueuedJob.from_row(name, row, self._encryption)
            for name in self.names
            for row in await self._database.fetch(queries.load("list_messages", name))
        ]

    async def dead_letters(self) -> list[DeadLetterJob]:
        """Return the dead letters of the queues, the oldest of each first."""
        found: list[DeadLetterJob] = []
        for name in self.names:
            service = DLQService(self._database, name)
            found += reversed(await service.list_dead_letter_jobs(MAX_DEAD_LETTERS))
        return [
            letter
            if letter.body is None
            else replace(letter, body=plain_body(letter.body, self._encryption, letter.queue))
            for letter in found
        ]

    async def replay(self, error_type: str | None) -> list[int]:
        """Replay the dead letters of the queues, and return the msg_ids of the new jobs."""
        msg_ids: list[int] = []
        for name in self.names:
            service = DLQService(self._database, name)
            replayed = await service.replay_multiple_jobs(
                error_type=error_type, limit=MAX_DEAD_LETTERS
            )
            msg_ids += [msg_id for _, msg_id in replayed]
        return msg_ids

    async def note_leases(self) -> None:
        """Remember which messages are leased now, before a worker of ours starts."""
        for name in self.names:
            rows = await self._database.fetch(queries.load("list_messages", name))
            self._held[name] = [
                (row["msg_id"], row["read_ct"]) for row in rows if row["state"] == LEASED_STATE
            ]

    async def count(self, *, with_held: bool = False) -> dict[str, StateCount]:
        """Count the messages of all queues by state, at one moment.

        Args:
            with_held: whether to count the leases that `note_leases` has found. Default false.
        """
        counts: dict[str, StateCount] = {}
        # In one snapshot: a job may enqueue another into a queue that has been counted already.
        async with self._database.source.transaction(isolation="repeatable_read", readonly=True):
            for name in self.names:
                held = [] if with_held else self._held.get(name, [])
                rows = await self._database.fetch(
                    queries.load("count_messages", name),
                    [msg_id for msg_id, _ in held],
                    [read_ct for _, read_ct in held],
                )
                for state, messages, due_in_seconds in rows:
                    known = counts.get(state, StateCount(0, due_in_seconds))
                    first = min(due_in_seconds, known.due_in_seconds)
                    counts[state] = StateCount(known.messages + messages, first)
        return counts

    async def advance(self, seconds: float, states: Sequence[str]) -> int:
        """Make messages in the given states due earlier, and return how many are due now.

        Workers that wait for messages are woken.
        """
        due = 0
        for name in self.names:
            sql = queries.load("advance_messages", name)
            rows = await self._database.fetch(sql, seconds, list(states))
            if any(row["is_due"] for row in rows):
                due += sum(row["is_due"] for row in rows)
                await self._database.fetch(queries.load("wake_workers"), wake_channel(name))
        return due
