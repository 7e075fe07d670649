"""Dead letters: jobs that failed for good. Look at them, group them, replay or delete them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

from meshhook.administration import describe_tables, get_queue_config, purge_in_chunks
from meshhook.arguments import MAX_ID, check_range, checked_id, checked_ids, checked_text
from meshhook.encryption.envelope import Place, envelope_of, is_sealed, is_sealed_object
from meshhook.encryption.key_ring import KeyRing, checked_ring
from meshhook.encryption.messages import decrypted_body, encrypted_body, outgoing_body
from meshhook.errors import (
    DatabaseReadOnlyError,
    DeadLetterNotFoundError,
    DuplicateJobError,
    EncryptionError,
    EncryptionRequiredError,
    InvalidJobError,
    InvalidSettingError,
    NotAJobError,
)
from meshhook.jobs import Job
from meshhook.names import DEFAULT_QUEUE_NAME, validate_queue_name, validate_worker_name
from meshhook.outcomes import AttemptOutcome
from meshhook.postgres.database import LONG_ANSWER_TIMEOUT_SECONDS, Database
from meshhook.store import queries
from meshhook.store.bodies import checked_body
from meshhook.store.changes import change, change_rows
from meshhook.store.dead_letter_rows import (
    DeadLetterError,
    DeadLetterJob,
    DlqMetrics,
    ErrorGroup,
    dead_letter_from,
)
from meshhook.store.settlements import (
    MAX_ERROR_MESSAGE_LENGTH,
    MAX_ERROR_STACK_LENGTH,
    MAX_ERROR_TYPE_LENGTH,
    Settlement,
    settle,
    storable_text,
)

MAX_DEAD_LETTERS = 1_000
"""The most dead letters that one call lists or replays."""
GROUPED_DEAD_LETTERS = 10_000
"""How many of the newest dead letters are read to group them by error type."""

_NEWEST_ERRORS = 5


class DLQService:
    """The dead letters of one queue. Several tasks may share one service."""

    def __init__(
        self,
        source: Any,
        queue: str = DEFAULT_QUEUE_NAME,
        *,
        worker_name: str | None = None,
        answer_timeout_seconds: float | None = None,
        encryption: KeyRing | None = None,
    ) -> None:
        """Take an asyncpg pool or connection, and the queue's name.

        Args:
            source: an asyncpg Pool or Connection, or a Database, which the caller still owns; or a
                URL, to which a pool of at most 4 connections is opened when it is needed, and
                closed by `close`.
            queue: the queue itself, without `_dlq`. Default `workflow_jobs`.
            worker_name: the name recorded in the history for jobs moved to the dead letters, up to
                200 characters. Default: none.
            answer_timeout_seconds: how long a statement may take before its connection counts as
                broken, 0.001 to 86,400 seconds. Default: that of the given Database, or 30.
            encryption: the keys with which encrypted dead letters are encrypted anew when they are
                replayed into another queue. Default: none; such a replay is refused.

        Raises:
            InvalidQueueNameError: if the name is not a valid queue name.
            InvalidSettingError: if `source` is no pool or connection, or a limit is out of range.
        """
        self.queue = validate_queue_name(queue)
        self._database = Database(source, answer_timeout_seconds=answer_timeout_seconds)
        self._worker_name = worker_name and validate_worker_name(worker_name)
        self._is_known = False
        self._encryption = checked_ring(encryption)

    async def close(self) -> None:
        """Close the connections that were opened for a URL; those of the caller stay open."""
        await self._database.close()

    async def __aenter__(self) -> Self:
        """Return the service itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close what was opened for a URL."""
        await self.close()

    async def move_to_dead_letter(
        self,
        job: Job[Any],
        error_message: str,
        error_stack: str | None = None,
        *,
        error_type: str = "DeadLetter",
    ) -> int | None:
        """Settle a dequeued job as a dead letter, even if the queue's `dlq_enabled` is false.

        Args:
            job: a job of this queue whose lease holds.
            error_message: what went wrong; cut in the middle beyond 4,000 characters.
            error_stack: a stack trace; cut in the middle beyond 16,000 characters.
            error_type: the error type to group it by, at most 200 characters. Default "DeadLetter".

        Returns:
            The id of the dead letter. None if the job's lease was lost: nothing was changed, and
            another worker may run the job.

        Raises:
            InvalidJobError: if the job belongs to another queue.
            NotAJobError: if `job` is not a job, but a msg_id for example.
            InvalidSettingError: if one of the texts is not a string.
            QueueNotFoundError, DatabaseError: nothing was changed.
            UncertainCommitError: the connection broke; the job is either a dead letter or leased.
        """
        if not isinstance(job, Job):
            raise NotAJobError(job)
        if job.queue != self.queue:
            raise InvalidJobError(
                f"job {job.msg_id} is of queue {job.queue!r}, and this service is for "
                f"{self.queue!r}; use DLQService(..., {job.queue!r})"
            )
        error_type = checked_text("error_type", error_type)
        error_message = checked_text("error_message", error_message)
        stack = None if error_stack is None else checked_text("error_stack", error_stack)
        tables = await describe_tables(self._database, self.queue)
        started_at = job.started_at.timestamp()
        settlement = Settlement(
            msg_id=job.msg_id,
            read_ct=job.read_ct,
            enqueued=job.enqueued_timestamp,
            attempt=job.attempt,
            outcome=AttemptOutcome.DEAD_LETTERED,
            started_at=started_at,
            finished_at=max(time.time(), started_at),
            run_id=job.run_id,
            workflow_id=job.workflow_id,
            project_id=job.project_id,
            has_links=True,  # a job may follow
            error_type=storable_text(error_type, MAX_ERROR_TYPE_LENGTH),
            error_message=storable_text(error_message, MAX_ERROR_MESSAGE_LENGTH),
            error_stack=stack and storable_text(stack, MAX_ERROR_STACK_LENGTH),
        )

        async def move(connection: Any) -> int | None:
            if not await settle(connection, tables, self._worker_name, [settlement]):
                return None
            sought = queries.load("find_dead_letter_of_job", tables)
            dead_letter_id: int = await connection.fetchval(sought, job.msg_id)
            return dead_letter_id

        return await self._database.run_in_transaction(move)

    async def list_dead_letter_jobs(
        self,
        limit: int = 100,
        *,
        before_id: int | None = None,
        error_type: str | None = None,
    ) -> list[DeadLetterJob]:
        """Return dead letters, newest first.

        Args:
            limit: the most to return, 1 to 1,000. Default 100.
            before_id: the last id of the previous page, to continue from. Default: the newest.
            error_type: only those of this error type. Default: all.

        Raises:
            InvalidSettingError: naming the argument that is wrong.
            QueueNotFoundError, DatabaseError: if they cannot be read.
        """
        check_range("limit", limit, MAX_DEAD_LETTERS)
        below = MAX_ID if before_id is None else checked_id("before_id", before_id)
        if error_type is None:
            rows = await self._fetch("list_dead_letters", below, limit)
        else:
            sought = _sought(error_type)
            rows = await self._fetch("list_dead_letters_by_error_type", below, limit, sought)
        return [dead_letter_from(row, self.queue) for row in rows]

    async def get_dead_letter_job(self, dead_letter_id: int) -> DeadLetterJob:
        """Return one dead letter.

        Raises:
            DeadLetterNotFoundError: if it is not there.
            QueueNotFoundError, DatabaseError: if it cannot be read.
        """
        sought = checked_id("dead_letter_id", dead_letter_id)
        for row in await self._fetch("get_dead_letter", sought):
            return dead_letter_from(row, self.queue)
        raise DeadLetterNotFoundError(self.queue, dead_letter_id)

    async def replay_dead_letter_job(
        self, dead_letter_id: int, target_queue: str | None = None, *, body: str | None = None
    ) -> int:
        """Turn a dead letter back into a job that is ready now and has all its attempts again.

        A dead letter is replayed once, however many callers try at the same time, and atomically.

        Args:
            dead_letter_id: the dead letter.
            target_queue: the queue to send it to. Default: the queue that it came from.
            body: the whole message of the new job as JSON text, up to the `max_payload_bytes` of
                the queue it is sent to. It is encrypted if this service has keys; one that is
                encrypted already must be unchanged. Default: as it is.

        Returns:
            The msg_id of the new job.

        Raises:
            InvalidJobError, JobTooLargeError: if the body is no JSON that can be stored; it stays.
            DeadLetterNotFoundError: if it does not exist, or another caller is replaying it.
            DuplicateJobError: if another job has its unique key by now; it stays.
            InvalidQueueNameError, QueueNotFoundError: if there is no such queue; it stays.
            EncryptionError: if it is encrypted, and another queue cannot get it, or the given body
                is encrypted and was changed; it stays.
            EncryptionRequiredError: if it is not, another queue requires that, and this service has
                no keys; it stays.
            DatabaseError: if the database refuses; it stays.
            UncertainCommitError: the connection broke; it was either replayed or left as it was.
        """
        sought = checked_id("dead_letter_id", dead_letter_id)
        target = self.queue if target_queue is None else validate_queue_name(target_queue)
        if body is not None:
            body = await self._new_body(sought, body, target)
        replayed, refused = await self._replay([sought], None, 1, target, body=body)
        for _, msg_id in replayed:
            return msg_id
        for holder, key in refused.values():
            raise DuplicateJobError(target, holder, key)
        raise DeadLetterNotFoundError(self.queue, dead_letter_id)

    async def replay_multiple_jobs(
        self,
        dead_letter_ids: Sequence[int] | None = None,
        *,
        error_type: str | None = None,
        limit: int = 100,
        target_queue: str | None = None,
    ) -> list[tuple[int, int]]:
        """Replay dead letters in one transaction: the given ones, or else the oldest.

        Those that no longer exist, that another caller is replaying, or whose unique key another
        job has by now, are skipped.

        Args:
            dead_letter_ids: which ones, at most 1,000. Default: the oldest.
            error_type: only the oldest of this error type; not together with ids. Default: any.
            limit: how many of the oldest, 1 to 1,000; it does not apply to ids. Default 100.
            target_queue: the queue to send them to. Default: the queue that they came from.

        Returns:
            (dead letter id, msg_id of the new job) of each one replayed, oldest first.

        Raises:
            InvalidSettingError: if an argument is out of range, or ids and an error type are given.
            InvalidQueueNameError, QueueNotFoundError: if there is no such queue; all stay.
            EncryptionError: if one is encrypted, and another queue cannot get it; all stay.
            EncryptionRequiredError: if one is not, another queue requires that, and this service
                has no keys; all stay.
            DatabaseError: if the database refuses; all stay.
            UncertainCommitError: the connection broke; either all were replayed or none.
        """
        check_range("limit", limit, MAX_DEAD_LETTERS)
        ids = None if dead_letter_ids is None else checked_ids(dead_letter_ids, MAX_DEAD_LETTERS)
        if ids is not None and error_type is not None:
            raise InvalidSettingError("name dead letter ids or an error_type to replay, not both")
        target = self.queue if target_queue is None else validate_queue_name(target_queue)
        return (await self._replay(ids, error_type, limit, target))[0]

    async def _replay(
        self,
        ids: list[int] | None,
        error_type: str | None,
        limit: int,
        target: str,
        *,
        body: str | None = None,
    ) -> tuple[list[tuple[int, int]], dict[int, tuple[int, str]]]:
        """Replay dead letters; also return those that stay, with the job that has their key."""
        for name in dict.fromkeys((self.queue, target)):
            await describe_tables(self._database, name)
        replay = queries.load("replay_dead_letters", self.queue, target=target)
        take_keys = queries.load("take_keys_of_replayed", self.queue, target=target)
        refused: dict[int, tuple[int, str]] = {}

        async def move(connection: Any) -> list[tuple[int, int]]:
            if ids is None:
                chosen = await self._lock_oldest(connection, error_type, limit, list(refused))
            else:
                chosen = [each for each in ids if each not in refused]
            rows = await connection.fetch(replay, chosen, self.queue, target == self.queue, body)
            dead = {row[1]: row[0] for row in rows}
            taken = await connection.fetch(take_keys, list(dead), target)
            if taken:
                raise _KeysTakenError({dead[row[0]]: (row[1], row[2]) for row in taken})
            if target != self.queue:
                await self._encrypt_for(connection, target, list(dead))
            return [(row[0], row[1]) for row in rows]

        while True:
            try:
                replayed = await change(
                    self._database,
                    move,
                    asked={
                        "error_type": error_type,
                        "limit": limit if ids is None else None,
                        "target_queue": target if target != self.queue else None,
                        "with_new_body": True if body is not None else None,
                    },
                    answer_timeout_seconds=LONG_ANSWER_TIMEOUT_SECONDS,
                )
            except _KeysTakenError as error:
                # All went back. Those whose sender was only quicker show their job next time.
                refused.update({i: each for i, each in error.refused.items() if each[0]})
            else:
                return replayed, refused

    async def _new_body(self, dead_letter_id: int, body: str, target: str) -> str:
        """Return the edited message of a dead letter as it is to be stored."""
        config = await get_queue_config(self._database, target)
        checked = checked_body(body, config.max_payload_bytes)
        value = json.loads(checked)
        if is_sealed_object(value):
            found = await self.get_dead_letter_job(dead_letter_id)
            if found.body is None or json.loads(found.body) != value:
                raise EncryptionError(
                    "the body is that of an encrypted message, and was changed: no worker could "
                    "read it. Replay it unchanged, or give what it says instead"
                )
            return checked
        if self._encryption is not None:
            await self._encryption.prepare()
        return outgoing_body(
            checked,
            self._encryption,
            Place("queue", target),
            max_bytes=config.max_payload_bytes,
            key_path=config.body_key_path,
            is_required=config.requires_encryption,
        )

    async def _encrypt_for(self, connection: Any, target: str, msg_ids: list[int]) -> None:
        """Encrypt jobs anew for the queue to which they were moved: each is bound to its queue.

        Plain ones too, if that queue requires it: there they would be dead letters again.
        """
        config = await get_queue_config(Database.of_caller(connection), target)
        sql = queries.load("encrypted_messages", target)
        found = await connection.fetch(sql, msg_ids, config.requires_encryption)
        place = Place("queue", target)
        # One with a new body was encrypted for its new queue.
        rows = [
            row
            for row in found
            if not is_sealed(row["body"]) or envelope_of(row["body"]).place != place
        ]
        if not rows:
            return
        ring = self._encryption
        if ring is None:
            if not all(is_sealed(row["body"]) for row in rows):
                raise EncryptionRequiredError(target)
            raise EncryptionError(
                f"dead letters of queue {self.queue!r} are encrypted for it; only with the keys "
                f"are they replayed into {target!r}: pass encryption=KeyRing.from_file(...), or "
                "set MESHHOOK_ENCRYPTION_KEY_FILE for the command line"
            )
        await ring.prepare()
        bodies = [
            encrypted_body(
                decrypted_body(row["body"], ring, self.queue)
                if is_sealed(row["body"])
                else row["body"],
                ring,
                place,
                max_bytes=config.max_payload_bytes,
                key_path=config.body_key_path,
            )
            for row in rows
        ]
        ids = [row["msg_id"] for row in rows]
        await connection.fetch(queries.load("replace_messages", target), ids, bodies)

    async def delete_dead_letter_job(self, dead_letter_id: int) -> bool:
        """Delete a dead letter for good.

        Returns:
            Whether it was there.

        Raises:
            QueueNotFoundError, DatabaseError: nothing was changed.
        """
        sought = checked_id("dead_letter_id", dead_letter_id)
        await self._check_queue()
        sql = queries.load("delete_dead_letter", self.queue)
        return bool(await change_rows(self._database, sql, sought, self.queue))

    async def delete_multiple_jobs(self, dead_letter_ids: Sequence[int]) -> list[int]:
        """Delete dead letters for good, in one statement, and return the ids of those that went.

        Those that are gone already, or that another caller is replaying, are skipped.

        Args:
            dead_letter_ids: which ones, at most 1,000.

        Raises:
            InvalidSettingError: if these are no ids, or too many.
            QueueNotFoundError, DatabaseError: nothing was changed.
        """
        ids = checked_ids(dead_letter_ids, MAX_DEAD_LETTERS)
        await self._check_queue()
        sql = queries.load("delete_dead_letters", self.queue)
        return sorted(row[0] for row in await change_rows(self._database, sql, ids, self.queue))

    async def get_dlq_metrics(self, *, count_limit: int = 100_000) -> DlqMetrics:
        """Return how many dead letters there are, how old they are, and the newest errors.

        Args:
            count_limit: where counting stops, 1 to 10 million. Default 100,000.

        Raises:
            InvalidSettingError: if `count_limit` is out of range.
            QueueNotFoundError, DatabaseError: if they cannot be read.
        """
        check_range("count_limit", count_limit, 10_000_000)
        (row,) = await self._fetch("dlq_metrics", count_limit)
        errors = await self._fetch("list_newest_errors", _NEWEST_ERRORS)
        return DlqMetrics(
            queue=self.queue,
            dead_letters=row["dead_letters"],
            capped=row["dead_letters"] >= count_limit,
            oldest_age_seconds=row["oldest_seconds"],
            newest_age_seconds=row["newest_seconds"],
            newest_errors=tuple(DeadLetterError(**dict(error)) for error in errors),
        )

    async def get_jobs_by_error_type(self, limit: int = 20) -> list[ErrorGroup]:
        """Group the newest 10,000 dead letters by error type, the most frequent first.

        Args:
            limit: the most error types to return, 1 to 1,000. Default 20.

        Raises:
            InvalidSettingError: if `limit` is out of range.
            QueueNotFoundError, DatabaseError: if they cannot be read.
        """
        check_range("limit", limit, MAX_DEAD_LETTERS)
        rows = await self._fetch("count_dead_letters_by_error", GROUPED_DEAD_LETTERS, limit)
        return [ErrorGroup(**dict(row)) for row in rows]

    async def purge_dlq(self) -> int:
        """Delete all dead letters for good, and return how many were deleted.

        They are deleted in chunks, each committed on its own. Those that are being replayed, and
        those that arrive in the meantime, stay.

        Raises:
            QueueNotFoundError, DatabaseError: chunks that were deleted before stay deleted.
        """
        newest = (await self._fetch("newest_dead_letter"))[0][0]
        sql = queries.load("purge_dlq", self.queue)
        return await purge_in_chunks(self._database, self.queue, sql, newest)

    async def _lock_oldest(
        self, connection: Any, error_type: str | None, limit: int, excepted: list[int]
    ) -> list[int]:
        if error_type is None:
            sql = queries.load("lock_dead_letters", self.queue)
            rows = await connection.fetch(sql, limit, excepted)
        else:
            sql = queries.load("lock_dead_letters_by_error_type", self.queue)
            sought = _sought(error_type)
            rows = await connection.fetch(sql, limit, sought, excepted)
        return [row[0] for row in rows]

    async def _fetch(self, statement: str, *arguments: object) -> Sequence[Any]:
        await self._check_queue()
        return await self._database.fetch(queries.load(statement, self.queue), *arguments)

    async def _check_queue(self) -> None:
        if not self._is_known:
            # Reading dead letters works on a replica; a write there fails with an error of its own.
            with suppress(DatabaseReadOnlyError):
                await describe_tables(self._database, self.queue)
            self._is_known = True


class _KeysTakenError(Exception):
    """Other jobs have unique keys of dead letters."""

    def __init__(self, refused: dict[int, tuple[int, str]]) -> None:
        super().__init__()
        self.refused = refused


def _sought(error_type: str) -> str:
    """Return an error type as it is stored."""
    return storable_text(checked_text("error_type", error_type), MAX_ERROR_TYPE_LENGTH)
