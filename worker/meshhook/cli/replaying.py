"""Replaying many dead letters, one batch at a time."""

from __future__ import annotations

from dataclasses import dataclass

from meshhook.actors import one_operation
from meshhook.cli.encryption_keys import key_ring
from meshhook.cli.failures import PartlyDoneError
from meshhook.cli.output import counted
from meshhook.dead_letters import MAX_DEAD_LETTERS, DLQService
from meshhook.errors import DeadLetterNotFoundError
from meshhook.postgres.database import Database


@dataclass(frozen=True, slots=True)
class Choice:
    """Which dead letters to replay: those with given ids, or the oldest."""

    ids: tuple[int, ...] = ()
    error_type: str | None = None
    limit: int | None = None
    """How many of the oldest; None means all that exist at the start."""


class Replay:
    """A replay, and how far it got."""

    def __init__(self, queue_name: str, target_queue: str | None, choice: Choice) -> None:
        """Take the queue, where to send its dead letters, and which ones."""
        self.replayed: list[tuple[int, int]] = []
        self.not_found: list[int] = []
        self._queue_name = queue_name
        self._target_queue = target_queue
        self._choice = choice

    async def run(self, database: Database) -> None:
        """Replay, each batch in a transaction of its own.

        Raises:
            PartlyDoneError: if it stopped halfway; says how many were replayed.
            MeshHookError: if it stopped before the first was replayed.
        """
        service = DLQService(database, self._queue_name, encryption=key_ring())
        try:
            with one_operation():
                if self._choice.ids:
                    await self._replay_named(service)
                else:
                    await self._replay_oldest(service)
        except Exception as error:
            if not self.replayed:
                raise
            done = counted(len(self.replayed), "dead letter")
            raise PartlyDoneError(
                f"{error}\n{done} had been replayed before that", error
            ) from error

    async def _replay_named(self, service: DLQService) -> None:
        ids = self._choice.ids
        for start in range(0, len(ids), MAX_DEAD_LETTERS):
            self.replayed += await service.replay_multiple_jobs(
                ids[start : start + MAX_DEAD_LETTERS], target_queue=self._target_queue
            )
        found = {dead for dead, _ in self.replayed}
        for each in ids:
            if each in found:
                continue
            try:
                # One whose unique key another job has says so.
                msg_id = await service.replay_dead_letter_job(each, self._target_queue)
            except DeadLetterNotFoundError:
                self.not_found.append(each)
            else:
                self.replayed.append((each, msg_id))

    async def _replay_oldest(self, service: DLQService) -> None:
        newest = await service.list_dead_letter_jobs(1)
        last_id = newest[0].id if newest else 0
        while (size := self._next_size()) > 0:
            pairs = await service.replay_multiple_jobs(
                error_type=self._choice.error_type, limit=size, target_queue=self._target_queue
            )
            self.replayed += pairs
            # Jobs that die again in the meantime have higher ids, and must not be replayed forever.
            if len(pairs) < size or pairs[-1][0] >= last_id:
                return

    def _next_size(self) -> int:
        if self._choice.limit is None:
            return MAX_DEAD_LETTERS
        return min(MAX_DEAD_LETTERS, self._choice.limit - len(self.replayed))
