"""Rotation of encryption keys: which keys messages use, and encrypting them anew with the first."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from meshhook.administration import describe_tables, get_queue_config
from meshhook.arguments import checked_flag
from meshhook.encryption.envelope import Place, envelope_of, is_sealed
from meshhook.encryption.key_ring import KeyRing
from meshhook.encryption.messages import encrypted_again, encrypted_body
from meshhook.errors import EncryptionError, InvalidSettingError
from meshhook.names import validate_queue_name
from meshhook.postgres.database import Database, DatabaseSource, takes_url
from meshhook.store import queries
from meshhook.store.messages import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

PAGE_MESSAGES = 5_000
"""How many messages one statement looks at."""
CHUNK_MESSAGES = 200
"""How many messages are locked at once; workers wait for no more than these."""
CHUNK_BYTES = 8_388_608


class MessagePlace(StrEnum):
    """Where messages of a queue are."""

    QUEUE = "queue"
    """Those that wait or run."""
    DEAD_LETTERS = "dead_letters"
    ARCHIVE = "archive"
    SCHEDULES = "schedules"
    """The message of each schedule."""
    GROUPS = "groups"
    """The callbacks of groups that have not finished."""
    FINISHED_JOBS = "finished_jobs"
    """Kept bodies of finished jobs, which are not encrypted anew: they end with their retention."""


_TABLES = (MessagePlace.QUEUE, MessagePlace.DEAD_LETTERS, MessagePlace.ARCHIVE)


@dataclass(frozen=True, slots=True)
class KeyUse:
    """How many messages of a queue are encrypted with a key."""

    place: str
    """Where they are: queue, dead_letters, archive, schedules, groups or finished_jobs."""
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
    message uses can be dropped, unless a program still encrypts with it; results in the history
    are not looked at.

    Raises:
        InvalidQueueNameError, QueueNotFoundError, DatabaseError: they cannot be counted.
    """
    name = validate_queue_name(queue)
    source = Database.of(database)
    await describe_tables(source, name)
    found: Counter[tuple[str, str | None]] = Counter()
    for place in _TABLES:
        async for page in _pages(source, name, place):
            found.update((str(place), row["key_id"]) for row in page)
    for row in await source.fetch(queries.load("list_stored_messages"), name):
        found[row["place"], row["key_id"]] += 1
    async for kept in _kept_pages(source, name):
        found.update((str(MessagePlace.FINISHED_JOBS), row["key_id"]) for row in kept)
    order = [str(place) for place in MessagePlace]
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
    plain: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> Rotation:
    """Encrypt dead letters, schedules and group callbacks anew with the first key of a ring.

    Messages that have it already are left alone, so that it can be stopped and run again. They are
    locked some hundred at a time, each chunk committed on its own; locked ones are left out. Only
    the owner of the tables may do it.

    Args:
        database: where the queue is.
        queue: the queue.
        encryption: the keys: the first, and those that the messages have.
        waiting: also messages in the queue itself. Default false: they leave it by and by.
        archive: also those in the archive. Default false.
        plain: also encrypt messages that are not encrypted. Default false.
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
    checked_flag("plain", plain)
    source = Database.of(database)
    await describe_tables(source, name)
    await encryption.prepare()
    config = await get_queue_config(source, name)
    work = _Rotating(source, name, encryption, config.body_key_path, with_plain=plain)
    places = [MessagePlace.DEAD_LETTERS]
    places += [MessagePlace.ARCHIVE] if archive else []
    places += [MessagePlace.QUEUE] if waiting else []
    for place in places:
        async for page in _pages(source, name, place):
            for ids in _chunks(row for row in page if work.is_old(row["key_id"])):
                await work.rotate(place, ids)
                if on_progress is not None:
                    on_progress(work.done.encrypted.total())
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

    def is_old(self, key_id: str | None) -> bool:
        """Return whether a message with this key is to be encrypted anew."""
        return self._with_plain if key_id is None else key_id != self._ring.first.key_id

    async def rotate(self, place: MessagePlace, ids: Sequence[int]) -> None:
        """Encrypt messages of a table anew, in a transaction."""
        lock = queries.load("lock_messages", self._queue, stored_in=place.value)
        replace = queries.load("replace_messages", self._queue, stored_in=place.value)

        async def change(connection: Any) -> tuple[int, int, Counter[str]]:
            rows = await connection.fetch(lock, ids)
            new, refused = self._encrypted(rows)
            if new:
                await connection.fetch(replace, list(new), list(new.values()))
            return len(new), len(rows), refused

        changed, found, refused = await self._database.run_in_transaction(change)
        self.done.encrypted[str(place)] += changed
        self.done.refused += refused
        self.done.locked += len(ids) - found  # or gone since: then nothing is left to do

    async def rotate_stored(self) -> None:
        """Encrypt the messages of schedules and groups anew."""
        for row in await self._database.fetch(queries.load("list_stored_messages"), self._queue):
            if not self.is_old(row["key_id"]):
                continue
            new, refused = self._encrypted([{"msg_id": 0, "body": row["body"]}])
            self.done.refused += refused
            if not new:
                continue
            replace = (
                queries.load("replace_message_of_schedule")
                if row["place"] == MessagePlace.SCHEDULES
                else queries.load("replace_message_of_group")
            )
            changed = await self._database.fetchval(
                replace, self._queue, row["name"], row["body"], new[0]
            )
            # Somebody has changed or locked it meanwhile.
            self.done.locked += not changed
            self.done.encrypted[row["place"]] += bool(changed)

    def _encrypted(self, rows: Sequence[Any]) -> tuple[dict[int, str], Counter[str]]:
        new: dict[int, str] = {}
        refused: Counter[str] = Counter()
        for row in rows:
            body = row["body"]
            try:
                if not is_sealed(body):
                    new[row["msg_id"]] = encrypted_body(
                        body,
                        self._ring,
                        Place("queue", self._queue),
                        max_bytes=MAX_MESSAGE_BYTES,
                        key_path=self._key_path,
                    )
                elif envelope_of(body).key_id != self._ring.first.key_id:
                    new[row["msg_id"]] = encrypted_again(body, self._ring, self._queue)
            except EncryptionError as error:
                refused[str(error)] += 1
        return new, refused


async def _pages(
    database: Database, queue: str, place: MessagePlace
) -> AsyncIterator[Sequence[Any]]:
    """Yield rows of a table, msg_id, key_id and size, page by page."""
    sql = queries.load("page_of_keys", queue, stored_in=place.value)
    last = -(2**63)
    while True:
        page = await database.fetch(sql, last, PAGE_MESSAGES)
        yield page
        if len(page) < PAGE_MESSAGES:
            return
        last = page[-1]["msg_id"]


async def _kept_pages(database: Database, queue: str) -> AsyncIterator[Sequence[Any]]:
    """Yield rows of kept bodies, msg_id and key_id, page by page."""
    sql = queries.load("page_of_kept_keys")
    last = -(2**63)
    while True:
        page = await database.fetch(sql, queue, last, PAGE_MESSAGES)
        # An id can have several rows, and the page may end among them.
        is_last = len(page) < PAGE_MESSAGES
        end = None if is_last else page[-1]["msg_id"]
        whole = [row for row in page if row["msg_id"] != end] or page
        yield whole
        if is_last:
            return
        last = whole[-1]["msg_id"]


def _chunks(rows: Any) -> list[list[int]]:
    """Return the ids of messages in chunks, by number and by size."""
    chunks: list[list[int]] = []
    size = CHUNK_BYTES
    for row in rows:
        if size >= CHUNK_BYTES or len(chunks[-1]) >= CHUNK_MESSAGES:
            chunks.append([])
            size = 0
        chunks[-1].append(row["msg_id"])
        size += row["size_bytes"]
    return chunks
