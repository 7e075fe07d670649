"""Rotation of encryption keys: which keys messages use, and encrypting them anew with the first."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from meshhook.actors import one_operation
from meshhook.administration import describe_tables, get_queue_config
from meshhook.arguments import checked_flag
from meshhook.encryption.envelope import Place, envelope_of, is_sealed
from meshhook.encryption.key_ring import KeyRing
from meshhook.encryption.messages import encrypted_again, encrypted_body, encrypted_result_again
from meshhook.errors import EncryptionError, InvalidSettingError, MeshHookError
from meshhook.names import validate_queue_name
from meshhook.postgres.database import Database, DatabaseSource, takes_url
from meshhook.store import queries
from meshhook.store.changes import change, change_value
from meshhook.store.encrypted_headers import with_identifiers
from meshhook.store.message_places import TABLES, Found, MessagePlace, chunks, messages_at
from meshhook.store.messages import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PAGE = 5_000
"""How many messages are chosen before those are encrypted."""
_READ = (*TABLES, MessagePlace.FINISHED_JOBS, MessagePlace.RESULTS)


@dataclass(frozen=True, slots=True)
class KeyUse:
    """How many messages of a queue are encrypted with a key."""

    place: str
    """Where they are: queue, dead_letters, archive, schedules, groups, finished_jobs,
    follow_ups or results."""
    key_id: str | None
    """The key's id; None for messages that are not encrypted."""
    messages: int
    """How many."""


@dataclass(slots=True)
class Rotation:
    """What became of messages that were to be encrypted anew."""

    encrypted: Counter[str] = field(default_factory=Counter)
    """How many were encrypted anew, by where they are."""
    locked: int = 0
    """How many another transaction had locked; run it again for them."""
    refused: Counter[str] = field(default_factory=Counter)
    """How many could not be read, by the reason: they stay as they are."""

    @property
    def is_complete(self) -> bool:
        """Whether no message was left out."""
        return not self.locked and not self.refused


@takes_url
async def count_key_uses(database: DatabaseSource, queue: str) -> list[KeyUse]:
    """Return how many messages of a queue use each encryption key, wherever they are.

    It reads every message, some thousands by each statement, and locks nothing. A key that no
    message uses can be dropped, unless a program still encrypts with it. Results in the history
    count too.

    Raises:
        InvalidQueueNameError, QueueNotFoundError, DatabaseError: they cannot be counted.
    """
    name = validate_queue_name(queue)
    source = Database.of(database)
    await describe_tables(source, name)
    found: Counter[tuple[str, str | None]] = Counter()
    for place in _READ:
        async for row in messages_at(source, name, place):
            found[place.value, row.key_id] += 1
            if row.has_follow_up:
                found[MessagePlace.FOLLOW_UPS.value, row.follow_up_key_id] += 1
    for stored in await source.fetch(queries.load("list_stored_messages"), name):
        found[stored["place"], stored["key_id"]] += 1
        if stored["has_follow_up"]:
            found[MessagePlace.FOLLOW_UPS.value, stored["follow_up_key_id"]] += 1
    order = [place.value for place in MessagePlace]
    return [
        KeyUse(place, key_id, count)
        for (place, key_id), count in sorted(
            found.items(), key=lambda each: (order.index(each[0][0]), each[0][1] or "")
        )
    ]


@takes_url
async def rotate_encryption(
    database: DatabaseSource,
    queue: str,
    encryption: KeyRing,
    *,
    waiting: bool = False,
    archive: bool = False,
    results: bool = False,
    plain: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> Rotation:
    """Encrypt dead letters, kept bodies, schedules and callbacks anew with a ring's first key.

    What is to follow dead letters, in their headers, goes with each. Messages that have the key
    already are left alone, so that it can be stopped and run again. They are locked some hundred at
    a time, each chunk committed on its own; locked ones are left out. The audit log says how many.
    Only the owner of the tables may do it.

    Args:
        database: where the queue is.
        queue: the queue.
        encryption: the keys: the first, and those that the messages have.
        waiting: also messages in the queue itself. Default false: they leave it by and by.
        archive: also those in the archive. Default false.
        results: also results in the history. Default false: they end with its retention.
        plain: also encrypt messages that are not encrypted. Default false. Results stay as they
            are.
        on_progress: called with the number of messages done so far. Default: nothing.

    Raises:
        InvalidSettingError: naming the argument that is wrong.
        EncryptionKeysUnavailableError: there are no keys.
        InvalidQueueNameError, QueueNotFoundError, DatabaseError: what was done stays done.
    """
    if not isinstance(encryption, KeyRing):
        raise InvalidSettingError("encryption is a KeyRing")
    name = validate_queue_name(queue)
    checked_flag("waiting", waiting)
    checked_flag("archive", archive)
    checked_flag("results", results)
    checked_flag("plain", plain)
    source = Database.of(database)
    await describe_tables(source, name)
    await encryption.prepare()
    config = await get_queue_config(source, name)
    work = _Rotating(source, name, encryption, config.body_key_path, with_plain=plain)
    places = [MessagePlace.DEAD_LETTERS, MessagePlace.FINISHED_JOBS]
    places += [MessagePlace.ARCHIVE] if archive else []
    places += [MessagePlace.RESULTS] if results else []
    places += [MessagePlace.QUEUE] if waiting else []
    with one_operation():
        for place in places:
            await work.rotate_all(place, on_progress)
        await work.rotate_stored()
    return work.done


class _Rotating:
    """A rotation under way."""

    def __init__(
        self,
        database: Database,
        queue: str,
        ring: KeyRing,
        key_path: str | None,
        *,
        with_plain: bool,
    ) -> None:
        self.done = Rotation()
        self._database = database
        self._queue = queue
        self._ring = ring
        self._key_path = key_path
        self._with_plain = with_plain

    def _is_old(self, key_id: str | None) -> bool:
        """Return whether a message with this key is to be encrypted anew."""
        return self._with_plain if key_id is None else key_id != self._ring.first.key_id

    def _is_due(self, place: MessagePlace, row: Found) -> bool:
        if place is MessagePlace.RESULTS and row.key_id is None:
            return False
        return self._is_old(row.key_id) or (
            row.has_follow_up and self._is_old(row.follow_up_key_id)
        )

    async def rotate_all(
        self, place: MessagePlace, on_progress: Callable[[int], None] | None
    ) -> None:
        """Encrypt what is in a table anew, chunk by chunk."""
        due: list[Found] = []
        async for row in messages_at(self._database, self._queue, place):
            if self._is_due(place, row):
                due.append(row)
            if len(due) >= _PAGE:
                await self._rotate_chunks(place, due, on_progress)
                due = []
        await self._rotate_chunks(place, due, on_progress)

    async def _rotate_chunks(
        self,
        place: MessagePlace,
        due: Sequence[Found],
        on_progress: Callable[[int], None] | None,
    ) -> None:
        for ids in chunks(due):
            await self._rotate(place, ids)
            if on_progress is not None:
                on_progress(self.done.encrypted.total())

    async def _rotate(self, place: MessagePlace, ids: Sequence[int]) -> None:
        """Encrypt messages of a table anew, in a transaction."""

        async def work(connection: Any) -> tuple[int, int, Counter[str]]:
            rows = await self._locked(connection, place, ids)
            new, refused = self._encrypted(place, rows)
            changed = await self._replace(connection, place, new) if new else 0
            return changed, len(rows), refused

        changed, found, refused = await change(self._database, work)
        self.done.encrypted[place.value] += changed
        self.done.refused += refused
        # Or gone since: then nothing is left to do. A job can have been kept twice.
        self.done.locked += max(len(ids) - found, 0)

    async def _locked(
        self, connection: Any, place: MessagePlace, ids: Sequence[int]
    ) -> Sequence[Any]:
        if place in TABLES:
            lock = queries.load("lock_messages", self._queue, stored_in=place.value)
            return await connection.fetch(lock, ids)  # type: ignore[no-any-return]
        name = "lock_results" if place is MessagePlace.RESULTS else "lock_kept_messages"
        return await connection.fetch(queries.load(name), self._queue, ids)  # type: ignore[no-any-return]

    async def _replace(self, connection: Any, place: MessagePlace, new: Sequence[_New]) -> int:
        ids = [each.row["msg_id"] for each in new]
        bodies = [each.body for each in new]
        follow_ups = [each.follow_up for each in new]
        key_id = self._ring.first.key_id
        if place in TABLES:
            sql = queries.load("rotate_messages", self._queue, stored_in=place.value)
            return await connection.fetchval(  # type: ignore[no-any-return]
                sql, ids, bodies, follow_ups, self._queue, place.value, key_id
            )
        places = [each.row["part"] for each in new], [each.row["place"] for each in new]
        if place is MessagePlace.RESULTS:
            sql = queries.load("rotate_results")
            return await connection.fetchval(sql, self._queue, ids, *places, bodies, key_id)  # type: ignore[no-any-return]
        sql = queries.load("rotate_kept_messages")
        return await connection.fetchval(  # type: ignore[no-any-return]
            sql, self._queue, ids, *places, bodies, follow_ups, key_id
        )

    async def rotate_stored(self) -> None:
        """Encrypt the messages of schedules and groups anew."""
        for row in await self._database.fetch(queries.load("list_stored_messages"), self._queue):
            place = MessagePlace(row["place"])
            new, refused = self._encrypted(place, [row])
            self.done.refused += refused
            for each in new:
                body = row["body"] if each.body is None else each.body
                arguments = [self._queue, row["name"], row["body"], body, each.follow_up]
                if place is MessagePlace.SCHEDULES:
                    sql = queries.load("replace_message_of_schedule")
                else:
                    sql = queries.load("replace_message_of_group")
                    arguments.append(self._ring.first.key_id)
                changed = await change_value(self._database, sql, *arguments)
                # Somebody has changed or locked it meanwhile.
                self.done.locked += not changed
                self.done.encrypted[place.value] += bool(changed)

    def _encrypted(
        self, place: MessagePlace, rows: Sequence[Any]
    ) -> tuple[list[_New], Counter[str]]:
        new: list[_New] = []
        refused: Counter[str] = Counter()
        for row in rows:
            try:
                if place is MessagePlace.RESULTS:
                    body = self._again_result(row["body"], row["msg_id"])
                    follow_up = None
                else:
                    body = self._again(row["body"], self._queue, self._key_path)
                    follow_up = self._again_follow_up(row)
                if body is not None or follow_up is not None:
                    new.append(_New(row, body, follow_up))
            except EncryptionError as error:
                refused[str(error)] += 1
            except (ValueError, RecursionError) as error:
                # Of one message, such as a key that is an object. It keeps no other from its turn.
                reason = str(error) if isinstance(error, MeshHookError) else type(error).__name__
                refused[f"it cannot be encrypted: {reason}"] += 1
        return new, refused

    def _again(self, body: str, queue: str, key_path: str | None) -> str | None:
        """Return a message encrypted with the first key; None if it stays as it is."""
        if not is_sealed(body):
            if not self._with_plain:
                return None
            return encrypted_body(
                body,
                self._ring,
                Place("queue", queue),
                max_bytes=MAX_MESSAGE_BYTES,
                key_path=key_path,
            )
        if envelope_of(body).key_id == self._ring.first.key_id:
            return None
        return encrypted_again(body, self._ring, queue)

    def _again_follow_up(self, row: Any) -> str | None:
        text, queue = row["follow_up"], row["follow_up_queue"]
        if text is None or queue is None:
            return None
        if self._with_plain and not is_sealed(text):
            text = json.dumps(with_identifiers(json.loads(text), row["body"]))
        return self._again(text, queue, None)

    def _again_result(self, result: str, msg_id: int) -> str | None:
        if envelope_of(result).key_id == self._ring.first.key_id:
            return None
        return encrypted_result_again(result, self._ring, self._queue, msg_id)


class _New(NamedTuple):
    """A row with what is to be stored in it; None for what stays."""

    row: Any
    body: str | None
    follow_up: str | None
