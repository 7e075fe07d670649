"""The keys of a keyed queue: what waits and runs of each, their weights and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from meshhook.administration import get_queue_config
from meshhook.arguments import check_range, checked_seconds
from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted
from meshhook.names import MAX_HOLD_REASON_LENGTH, MAX_KEY_LENGTH
from meshhook.postgres.database import (
    LONG_ANSWER_TIMEOUT_SECONDS,
    Database,
    DatabaseSource,
    takes_url,
)
from meshhook.queue_config import QueueConfig
from meshhook.store import queries
from meshhook.store.changes import change

if TYPE_CHECKING:
    import asyncpg

MAX_KEYS = 10_000
DEFAULT_KEYS = 1_000
KeyOrder = Literal["waiting", "running"]
KEY_ORDERS: tuple[KeyOrder, ...] = get_args(KeyOrder)
COUNT_LIMIT = 10_000
MAX_HOLD_SECONDS = 31_622_400


class BreakerState(StrEnum):
    """The state of the circuit breaker of a key."""

    CLOSED = "closed"
    """Jobs of the key are claimed."""
    OPEN = "open"
    """None is claimed until the next probe."""
    HALF_OPEN = "half-open"
    """One job at a time is claimed: a probe, whose end closes the breaker or opens it again."""


class HoldMaker(StrEnum):
    """Who made the hold of a key."""

    MANUAL = "manual"
    """`hold_key` or `meshhook keys hold`."""
    HANDLER = "handler"
    """The outcome of a job, with `hold_key=True`."""
    DEAD_LETTER = "dead_letter"
    """A job that died, in an ordered queue with `on_dead_letter=block`."""


@dataclass(frozen=True, slots=True)
class KeyState:
    """One key of a queue at one moment. Counts stop at a limit, to bound the cost of reading."""

    key: str
    """The key; the empty one is that of messages without a key."""
    ready: int
    """Messages that may be claimed now, lost ones included."""
    running: int
    """Messages that are leased."""
    waiting_for_later: int
    """Messages that fall due later: delayed, or waiting for their next attempt."""
    capped: bool
    """Whether a count stopped at the limit: there are at least as many."""
    oldest_ready_seconds: float
    """How long the oldest message has been ready; 0 if none is."""
    weight: float
    """How many jobs of it run for each job of a key with weight 1."""
    max_running: int | None
    """How many of its jobs may run at once: its own limit, or that of each key; None means any
    number."""
    max_starts: int | None
    """How many of its jobs may start in the queue's `starts_period_seconds`: by its own rate, or
    that of each key; None means any number."""
    has_own_settings: bool
    """Whether it has a weight, a limit or a rate of its own."""
    held_until: datetime | None
    """Until when none of its jobs is claimed: in the year 9999 if until it is resumed; None if it
    is not held. A breaker is no hold."""
    held_at: datetime | None
    """When it was held; None if it is not, or that is unknown."""
    held_by: HoldMaker | None
    """Who holds it; None if it is not held, or that is unknown."""
    hold_reason: str | None
    """Why it is held, at most 500 characters; None if it is not, or nothing was said."""
    breaker: BreakerState | None
    """The state of its breaker; None if the queue has none."""
    failures_in_a_row: int
    """How many failures in a row its breaker has counted."""
    last_error_type: str | None
    """The error type of the last of them; None if there is none."""
    breaker_opened_at: datetime | None
    """Since when its breaker has not been closed; None if it is closed."""
    next_probe_at: datetime | None
    """From when on its next probe may start, which may have passed; None if its breaker is
    closed."""
    blocked_by: int | None
    """The `msg_id` of the job that the others of its key wait for, in a queue with ordered keys;
    None if they wait for none but one that runs."""
    blocked_reason: str | None
    """Why they wait: `retrying` if that job waits for its next attempt, `scheduled` if it is
    delayed or snoozed, `dead_lettered` if it died and the queue says that this blocks its key."""
    blocked_since: datetime | None
    """Since when it does; None if nobody knows any more, or the role may not read the history."""
    blocked_until: datetime | None
    """Until when it does; None for a dead letter."""
    dead_letter_id: int | None
    """Which dead letter blocks the key, until it is replayed or deleted, or the key is resumed;
    None if none does."""


class _KeySettings(BaseModel):
    """What can be set for a key; None means what holds for each key of the queue."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: Annotated[float, Field(ge=0.001, le=1_000)] | None = None
    max_running: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    max_starts: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


KEY_OPTIONS: tuple[str, ...] = tuple(_KeySettings.model_fields)
"""The names of what can be set for a key."""


@takes_url
async def list_keys(
    database: DatabaseSource,
    queue: str,
    *,
    max_keys: int = DEFAULT_KEYS,
    sort: KeyOrder = "waiting",
) -> list[KeyState]:
    """Return the keys of a queue, those with the most jobs first.

    Args:
        database: where the queue is.
        queue: the queue, which is keyed.
        max_keys: how many keys to look at, in the order of their bytes, 1 to 10,000. Default 1,000.
        sort: by which jobs: `waiting`, the default, are those that are ready; `running` those that
            are leased.

    Raises:
        InvalidSettingError: if `max_keys` or `sort` is none of these, or the queue is not keyed.
        QueueNotFoundError, DatabaseError: if they cannot be read.
    """
    check_range("max_keys", max_keys, MAX_KEYS)
    if sort not in KEY_ORDERS:
        raise InvalidSettingError(f"sort is {' or '.join(KEY_ORDERS)}, got {quoted(sort)}")
    found = await _read(Database.of(database), queue, None, max_keys)
    return found if sort == "waiting" else sorted(found, key=lambda each: -each.running)


@takes_url
async def list_keys_by_name(
    database: DatabaseSource,
    queue: str,
    *,
    after: str | None = None,
    prefix: str = "",
    max_keys: int = DEFAULT_KEYS,
) -> list[KeyState]:
    """Return keys of a queue in the order of their bytes, to go through all of them in pages.

    Args:
        database: where the queue is.
        queue: the queue, which is keyed.
        after: only keys behind this one, to continue a list. Default: from the first on.
        prefix: only keys that begin with it. Default: all.
        max_keys: how many at the most, 1 to 10,000. Default 1,000.

    Raises:
        InvalidSettingError: if an argument is none of these, or the queue is not keyed.
        QueueNotFoundError, DatabaseError: if they cannot be read.
    """
    check_range("max_keys", max_keys, MAX_KEYS)
    first = _checked_key(prefix)
    if after is not None:
        # The text that comes next in the order of bytes.
        first = max(first, _checked_key(after) + "\x01", key=lambda each: each.encode())
    return await _read(
        Database.of(database), queue, None, max_keys, first=first, prefix=prefix, by_name=True
    )


@takes_url
async def get_key(database: DatabaseSource, queue: str, key: str) -> KeyState:
    """Return one key of a queue, whether it has messages or not.

    Args:
        database: where the queue is.
        queue: the queue, which is keyed.
        key: the key; the empty one is that of messages without a key.

    Raises:
        InvalidSettingError: if the key is not text of at most 200 characters, or the queue is not
            keyed.
        QueueNotFoundError, DatabaseError: if it cannot be read.
    """
    return (await _read(Database.of(database), queue, _checked_key(key), 1))[0]


@takes_url
async def set_key(database: DatabaseSource, queue: str, key: str, **changes: Any) -> KeyState:
    """Change what is set for one key of a queue, and return the key; running workers follow.

    Args:
        database: where the queue is.
        queue: the queue, which is keyed.
        key: the key; the empty one is that of messages without a key.
        **changes: `weight`, 0.001 to 1000; `max_running` and `max_starts`, 1 to a million. Values
            may be strings; None or `none` means what holds for each key.

    Raises:
        InvalidSettingError: naming the argument and the value received, or if the queue is not
            keyed.
        QueueNotFoundError, DatabaseError: nothing was changed.
    """
    source, name = Database.of(database), _checked_key(key)
    await _keyed_config(source, queue)

    async def write(connection: Any) -> None:
        current = await connection.fetchrow(queries.load("lock_key"), queue, name)
        settings = _changed({} if current is None else dict(current), changes)
        await connection.fetch(
            queries.load("set_key"),
            queue,
            name,
            *(getattr(settings, each) for each in KEY_OPTIONS),
        )
        await connection.fetch(queries.load("forget_key"), queue, name)

    await change(source, write)
    return await get_key(source, queue, name)


@takes_url
async def hold_key(
    database: DatabaseSource,
    queue: str,
    key: str,
    seconds: float | None = None,
    *,
    reason: str | None = None,
) -> KeyState:
    """Hold a key: its jobs stay where they are, and spend no attempt; running jobs finish.

    Args:
        database: where the queue is.
        queue: the queue, which is keyed.
        key: the key; the empty one is that of messages without a key.
        seconds: for how long, up to 366 days. Default: until `resume_key`.
        reason: why, in at most 500 characters, for those who look at the key. Default: none.

    Raises:
        InvalidSettingError: if an argument is wrong, or the queue is not keyed.
        QueueNotFoundError, DatabaseError: it is not held.
    """
    if seconds is not None:
        checked_seconds("seconds", seconds, 0.001, MAX_HOLD_SECONDS)
    if reason is not None and (
        not isinstance(reason, str) or len(reason) > MAX_HOLD_REASON_LENGTH or "\0" in reason
    ):
        raise InvalidSettingError(
            f"reason is text of at most {MAX_HOLD_REASON_LENGTH} characters, got {quoted(reason)}"
        )
    return await _hold(Database.of(database), queue, key, seconds, reason)


@takes_url
async def resume_key(database: DatabaseSource, queue: str, key: str) -> KeyState:
    """Hold a key no longer, close its breaker, and let it go on after a dead letter.

    One that is not held stays as it is.

    Args:
        database: where the queue is.
        queue: the queue, which is keyed.
        key: the key; the empty one is that of messages without a key.

    Raises:
        InvalidSettingError: if the key is wrong, or the queue is not keyed.
        QueueNotFoundError, DatabaseError: nothing was changed.
    """
    return await _hold(Database.of(database), queue, key, 0, None)


async def _hold(
    database: Database, queue: str, key: str, seconds: float | None, reason: str | None
) -> KeyState:
    name = _checked_key(key)
    await _keyed_config(database, queue)

    async def hold(connection: Any) -> None:
        if seconds == 0:
            await connection.fetch(queries.load("close_breaker"), queue, name)
        await connection.fetch(queries.load("hold_key"), queue, name, seconds, reason)
        await connection.fetch(queries.load("forget_key"), queue, name)

    await change(database, hold)
    return await get_key(database, queue, name)


def _changed(current: Mapping[str, Any], changes: Mapping[str, Any]) -> _KeySettings:
    unknown = sorted(set(changes) - set(KEY_OPTIONS))
    if unknown:
        raise InvalidSettingError(
            f"unknown setting {quoted(unknown[0])}; a key has: {', '.join(KEY_OPTIONS)}"
        )
    values = dict(current)
    for name, value in changes.items():
        is_none = isinstance(value, str) and value.strip().lower() in ("none", "null")
        values[name] = None if is_none else value
    try:
        return _KeySettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidSettingError(
            f"{first['loc'][0]}={quoted(first['input'])}: {first['msg']}"
        ) from None


def _checked_key(key: str) -> str:
    if not isinstance(key, str) or len(key) > MAX_KEY_LENGTH:
        raise InvalidSettingError(
            f"key is text of at most {MAX_KEY_LENGTH} characters, got {quoted(key)}"
        )
    return key


async def _keyed_config(database: Database, queue: str) -> QueueConfig:
    config = await get_queue_config(database, queue)
    if not config.keyed:
        raise InvalidSettingError(
            f"queue {quoted(queue)} is not keyed; make it so: meshhook queue set {queue} keyed=true"
        )
    return config


async def _read(
    database: Database,
    queue: str,
    key: str | None,
    max_keys: int,
    *,
    first: str = "",
    prefix: str = "",
    by_name: bool = False,
) -> list[KeyState]:
    config = await _keyed_config(database, queue)
    rows = await database.fetch(
        queries.load("list_keys", queue, key_path=config.key_path),
        max_keys,
        COUNT_LIMIT,
        queue,
        key,
        first,
        prefix,
        by_name,
        answer_timeout_seconds=LONG_ANSWER_TIMEOUT_SECONDS,
    )
    return [_state_of(row) for row in rows]


def _state_of(row: asyncpg.Record) -> KeyState:
    values = dict(row)
    held_by, breaker = values.pop("held_by"), values.pop("breaker")
    return KeyState(
        **values,
        held_by=None if held_by is None else HoldMaker(held_by),
        breaker=None if breaker is None else BreakerState(breaker),
    )
