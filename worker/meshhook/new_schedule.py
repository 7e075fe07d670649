"""A schedule as it is declared: checking it, and storing it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import asyncpg

from meshhook.administration import get_queue_config
from meshhook.due_times import Missed, Overlap, Timetable, checked_cron, checked_every, checked_zone
from meshhook.encryption.envelope import Place, is_sealed
from meshhook.encryption.messages import decrypted_body, encrypted_body
from meshhook.errors import (
    DatabaseError,
    EncryptionError,
    InvalidJobError,
    InvalidSettingError,
    QueueNotFoundError,
)
from meshhook.escaping import quoted
from meshhook.follow_ups import FollowUp
from meshhook.names import validate_queue_name, validate_schedule_name
from meshhook.postgres.database import Database
from meshhook.postgres.driver_errors import sqlstate_of
from meshhook.priorities import headers_with_priority
from meshhook.store import queries
from meshhook.store.changes import change_value
from meshhook.store.encrypted_headers import encrypted_headers
from meshhook.store.messages import follow_up_message
from meshhook.store.policy_headers import headers_with_policies

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta
    from uuid import UUID

    from meshhook.encryption.key_ring import KeyRing
    from meshhook.job_policies import SchedulePolicies
    from meshhook.priorities import AnyPriority
    from meshhook.store.messages import FollowUpMessage


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A schedule as it is declared, checked as far as it can be without a database."""

    queue: str
    name: str
    table: Timetable
    message: FollowUpMessage
    missed: Missed
    overlap: Overlap

    @classmethod
    def of(
        cls,
        queue: str,
        name: str,
        cron: str | None,
        *,
        every: float | timedelta | None,
        tz: str,
        payload: Any,
        key: str | UUID | None,
        priority: AnyPriority | None,
        headers: Mapping[str, Any] | None,
        missed: str,
        overlap: str,
        default_priority: AnyPriority | None = None,
        **policies: Unpack[SchedulePolicies],
    ) -> NewSchedule:
        """Check what a caller says.

        Raises:
            InvalidQueueNameError, InvalidSettingError, InvalidJobError: naming the argument.
        """
        seconds = None if every is None else checked_every(every)
        if cron is not None and seconds is not None:
            raise InvalidSettingError(
                f"cron={quoted(cron)} was given with every={quoted(every)}; leave one of them out"
            )
        if cron is None and seconds is None:
            raise InvalidSettingError(
                "a schedule has a cron expression, such as '0 9 * * *', or every=timedelta(...)"
            )
        checked_zone(tz)
        headers = headers_with_priority(headers, priority, default_priority)
        headers = headers_with_policies(headers, **policies)
        return cls(
            queue=validate_queue_name(queue),
            name=validate_schedule_name(name),
            table=Timetable.of(None if cron is None else checked_cron(cron), seconds, tz),
            message=follow_up_message(FollowUp(queue, payload, key=key, headers=headers)),
            missed=_choice(Missed, "missed", missed),
            overlap=_choice(Overlap, "overlap", overlap),
        )

    async def store(self, database: Database, encryption: KeyRing | None = None) -> bool:
        """Store it, encrypted if there are keys, and return whether anything was changed.

        Raises:
            QueueNotFoundError, InvalidJobError, DatabaseError: it is not stored.
            EncryptionKeysUnavailableError: there are no keys.
        """
        body, headers = await self._stored(database, encryption)
        now = await database.fetchval(queries.load("clock"))
        try:
            return bool(
                await change_value(
                    database,
                    queries.load("add_schedule"),
                    self.queue,
                    self.name,
                    self.table.cron,
                    self.table.every_seconds,
                    self.table.zone.key,
                    body,
                    headers,
                    self.message.key,
                    str(self.missed),
                    str(self.overlap),
                    self.table.next_after(now),
                )
            )
        except DatabaseError as error:
            if isinstance(error.__cause__, asyncpg.InsufficientPrivilegeError):
                raise DatabaseError(
                    f"schedule {quoted(self.name)} of queue {quoted(self.queue)} is not in the "
                    "database as it is declared, and this role may not store it; a role that may "
                    f"enqueue can: meshhook schedule add {self.queue} {self.name} ... ({error})"
                ) from error
            raise refusal_of(error, self.queue, self.name) from error

    async def _stored(
        self, database: Database, encryption: KeyRing | None
    ) -> tuple[str, str | None]:
        """Return body and headers to store: those of the database, if they are these encrypted."""
        plain = self.message.body
        if encryption is None:
            return plain, self.message.headers
        await encryption.prepare()
        rows = await database.fetch(queries.load("schedule_message"), self.queue, self.name)
        stored = rows[0] if rows else {"message": None, "headers": None}
        headers = encrypted_headers(
            self.message.headers, plain, encryption, stored=stored["headers"]
        )
        if stored["message"] is not None and is_sealed(stored["message"]):
            with suppress(EncryptionError):
                if decrypted_body(stored["message"], encryption, self.queue) == plain:
                    return stored["message"], headers
        config = await get_queue_config(database, self.queue)
        body = encrypted_body(
            plain,
            encryption,
            Place("queue", self.queue),
            max_bytes=config.max_payload_bytes,
            key_path=config.body_key_path,
        )
        return body, headers


def _choice(kind: Any, name: str, value: object) -> Any:
    if isinstance(value, str) and value in list(kind):
        return kind(value)
    raise InvalidSettingError(f"{name} is one of {', '.join(kind)}, got {quoted(value)}")


def refusal_of(error: DatabaseError, queue: str, name: str) -> Exception:
    """Return the error for a caller whose schedule, or its job, was refused."""
    state = sqlstate_of(error.__cause__)
    if state == "MHQ05":
        return QueueNotFoundError(queue)
    if state in {"MHQ06", "MHQ07", "MHQ20"}:
        return InvalidJobError(f"schedule {quoted(name)}: {error.__cause__}")
    return error
