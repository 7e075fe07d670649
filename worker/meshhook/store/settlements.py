"""Settlements: recording how attempts ended, many in one statement, each fenced by its lease."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from meshhook.errors import UnstorableTextError
from meshhook.jobs import JobKey
from meshhook.outcomes import AttemptOutcome
from meshhook.postgres.connecting import server_encoding
from meshhook.postgres.text_encodings import ASCII, fitted_text, holds_all
from meshhook.store import queries
from meshhook.store.alike_settlements import alike_rows
from meshhook.store.breakers import BreakerChange, breaker_changes
from meshhook.store.messages import FollowUpMessage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshhook.store.alike_settlements import AlikeRows

_NOTHING = {None}
_SUCCESS = {AttemptOutcome.SUCCEEDED}

MAX_ERROR_TYPE_LENGTH = 200
MAX_ERROR_MESSAGE_LENGTH = 4_000
MAX_ERROR_STACK_LENGTH = 16_000


class Settlement(NamedTuple):
    """How one attempt ended.

    All fields up to `trace_id` stand in the order of the parameters of `sql/settle.sql`.
    """

    msg_id: int
    read_ct: int
    """Which lease it was, by the message's `read_ct`."""
    enqueued: float
    """When the message was enqueued, in seconds since 1970; with msg_id, the job's identity."""
    attempt: int
    outcome: AttemptOutcome
    started_at: float | None
    """When it began, in seconds since 1970 by the database's clock; None if it never ran."""
    finished_at: float
    """When it ended, in seconds since 1970 by the database's clock."""
    delay_seconds: float = 0.0
    """How long until the job is ready again, for a retry or a snooze."""
    run_id: str | None = None
    workflow_id: str | None = None
    project_id: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    error_stack: str | None = None
    trace_id: str | None = None
    has_links: bool = False
    """Whether something hangs on the job, such as a unique key: see `sql/settle.sql`."""
    follow_ups: tuple[FollowUpMessage, ...] = ()
    """What is enqueued with the outcome; `has_links` is then true."""
    result: str | None = None
    """What the handler returned, as JSON text, to be kept; `has_links` is then true."""
    group_id: str | None = None
    """The group of the job, by its header; `has_links` is then true."""

    @property
    def key(self) -> JobKey:
        """Which job it is about."""
        return self.msg_id, self.enqueued


_TEXTS = ("run_id", "workflow_id", "project_id", "error_type", "error_message", "error_stack")
_OUTCOME = Settlement._fields.index("outcome")
_READ_CT = Settlement._fields.index("read_ct")
_ATTEMPT = Settlement._fields.index("attempt")
_COLUMNS_OF_SUCCESS = tuple(
    Settlement._fields.index(name)
    for name in (
        "msg_id",
        "read_ct",
        "enqueued",
        "attempt",
        "started_at",
        "finished_at",
        "run_id",
        "workflow_id",
        "project_id",
        "trace_id",
    )
)
"""The positions in a settlement of the parameters of `sql/settle_succeeded.sql`."""
_COLUMNS_OF_ROWS = tuple(
    Settlement._fields.index(name)
    for name in (
        "read_ct",
        "enqueued",
        "attempt",
        "started_at",
        "finished_at",
        "workflow_id",
        "project_id",
        "trace_id",
    )
)
"""The positions in a settlement of what jobs have in common in `sql/settle_alike.sql`."""
_RUN_ID = Settlement._fields.index("run_id")
_FOLLOW_UP_COLUMNS = 1 + len(FollowUpMessage._fields)


@dataclass(slots=True)
class BreakerCount:
    """What a settlement tells the breakers of its jobs' keys, and what comes of it."""

    key_path: str | None
    """Where in the body the keys are; None means the header."""
    failed: Sequence[bool] = ()
    """For each settlement whether it counts as a failure of its key. One that succeeded does not;
    where all did, they may be left out."""
    changes: list[BreakerChange] = field(default_factory=list)
    """The breakers that opened or closed."""


@dataclass(slots=True)
class RetryBudget:
    """What a settlement learns of the budget for retries of its queue."""

    delayed: int = 0
    """How many retries were put off until there is room."""


async def settle(
    database: Any,
    tables: queries.QueueTables,
    worker_name: str | None,
    settlements: Sequence[Settlement],
    breakers: BreakerCount | None = None,
    *,
    keeps_bodies: bool = False,
    budget: RetryBudget | None = None,
) -> set[int]:
    """Record settlements in one statement, all or nothing; quickest if all have succeeded.

    Characters that the database's encoding lacks are recorded as question marks. `breakers` counts
    failures of keys in the same statement; default: none are counted. `keeps_bodies` keeps the
    bodies of jobs that succeeded or were cancelled, in the same statement; default false.
    `budget` puts off retries that are more than the queue's budget; default: it has none.

    Returns:
        The positions, from 0, of those whose lease was still held. The others changed nothing.
    """
    if not settlements:
        return set()
    record = partial(
        _settle, database, tables, breakers=breakers, keeps_bodies=keeps_bodies, budget=budget
    )
    encoding = server_encoding(database)
    name = worker_name and fitted_text(worker_name, encoding)
    try:
        return await record(name, _fitted(settlements, encoding))
    except UnstorableTextError:
        # The encoding was unknown, or differs from Python's idea of it. Every encoding holds
        # ASCII, so this cannot fail for the same reason.
        name = worker_name and fitted_text(worker_name, ASCII)
        return await record(name, _fitted(settlements, ASCII))


async def _settle(
    database: Any,
    tables: queries.QueueTables,
    worker_name: str | None,
    settlements: Sequence[Settlement],
    *,
    breakers: BreakerCount | None,
    keeps_bodies: bool,
    budget: RetryBudget | None,
) -> set[int]:
    *fields, links, follow_ups, results, _ = zip(*settlements, strict=True)
    has_links = any(links)
    columns = [
        # A column without values is sent as null, which costs nothing: unnest fills it up.
        None if column[0] is None and set(column) == _NOTHING else column
        for column in fields
    ]
    if columns[_ATTEMPT] == columns[_READ_CT]:
        columns[_ATTEMPT] = None
    is_success = not has_links and set(columns[_OUTCOME] or ()) == _SUCCESS
    if is_success and breakers is None and not keeps_bodies:
        alike = alike_rows(fields[0], columns[_RUN_ID], [columns[i] for i in _COLUMNS_OF_ROWS])
        if alike is not None:
            return await _settle_rows(database, tables, worker_name, alike, len(settlements))
    has_budget = budget is not None and AttemptOutcome.RETRIED in (columns[_OUTCOME] or ())
    sql = queries.load(
        "settle_succeeded" if is_success else "settle",
        tables,
        key_path=None if breakers is None else breakers.key_path,
        has_breakers=breakers is not None,
        has_links=has_links,
        keeps_bodies=keeps_bodies,
        has_budget=has_budget,
    )
    if is_success:
        rows = await database.fetch(
            sql,
            worker_name,
            *(columns[i] for i in _COLUMNS_OF_SUCCESS),
            tables.queue_name,
        )
        if breakers is not None:
            breakers.changes += breaker_changes(rows[0]["closed"])
        return _held(rows[0]["positions"], len(settlements))
    failed = None if breakers is None else breakers.failed
    arguments: list[Any] = [worker_name, *columns, tables.queue_name]
    if has_links:
        arguments += [failed, *_follow_up_columns(follow_ups), results]
    elif breakers is not None:
        arguments.append(failed)
    rows = await database.fetch(sql, *arguments)
    if breakers is not None and rows:
        breakers.changes += breaker_changes(rows[0]["opened"])
        breakers.changes += breaker_changes(rows[0]["closed"])
    if budget is not None and has_budget and rows:
        budget.delayed += rows[0]["delayed"]
    return {row[0] - 1 for row in rows}


async def _settle_rows(
    database: Any,
    tables: queries.QueueTables,
    worker_name: str | None,
    alike: AlikeRows,
    count: int,
) -> set[int]:
    rows = await database.fetch(
        queries.load("settle_alike", tables),
        worker_name,
        alike.msg_ids,
        alike.run_ids,
        alike.first,
        alike.last,
        *alike.columns,
        tables.queue_name,
    )
    return _held(rows[0]["positions"], count)


def _held(positions: Sequence[int] | None, count: int) -> set[int]:
    """Return the positions, from 0, whose lease was still held; None means all."""
    return set(range(count)) if positions is None else {each - 1 for each in positions}


def _follow_up_columns(
    of_settlements: Sequence[tuple[FollowUpMessage, ...]],
) -> Sequence[Sequence[Any] | None]:
    """Return the follow-ups as columns, the first of which is the position of the settlement."""
    rows = [
        (position, *message)
        for position, messages in enumerate(of_settlements, start=1)
        for message in messages
    ]
    return list(zip(*rows, strict=True)) if rows else (None,) * _FOLLOW_UP_COLUMNS


async def find_settled(
    database: Any,
    queue_name: str,
    worker_name: str,
    settlements: Sequence[Settlement],
) -> dict[int, AttemptOutcome]:
    """Return which attempts this worker has recorded already: position, from 0, and outcome.

    The outcome may differ from the settlement's if the handler settled its job itself.
    """
    rows = await database.fetch(
        queries.load("find_settled"),
        queue_name,
        worker_name,
        [settlement.msg_id for settlement in settlements],
        [settlement.attempt for settlement in settlements],
        [settlement.started_at for settlement in settlements],
        [settlement.enqueued for settlement in settlements],
    )
    return {row["position"] - 1: AttemptOutcome(row["outcome"]) for row in rows}


async def find_locked(
    database: Any, tables: queries.QueueTables, settlements: Sequence[Settlement]
) -> set[int]:
    """Return the positions, from 0, of those whose message another transaction has locked."""
    rows = await database.fetch(
        queries.load("find_locked", tables),
        [settlement.msg_id for settlement in settlements],
        [settlement.read_ct for settlement in settlements],
        [settlement.enqueued for settlement in settlements],
    )
    return {row["position"] - 1 for row in rows}


def _fitted(settlements: Sequence[Settlement], encoding: str | None) -> Sequence[Settlement]:
    """Return the settlements with texts that an encoding can represent."""
    if holds_all(encoding):
        return settlements
    fitted = []
    for settlement in settlements:
        texts: dict[str, Any] = {
            name: fitted_text(text, encoding)
            for name in _TEXTS
            if (text := getattr(settlement, name)) is not None
        }
        fitted.append(settlement._replace(**texts))
    return fitted


def storable_text(text: str, max_length: int) -> str:
    """Return `text` as PostgreSQL can store it, at most `max_length` characters long.

    U+0000 and halves of surrogate pairs become U+FFFD; a longer text is cut in the middle.
    """
    if len(text) > max_length:
        cut = f" … {len(text) - max_length} characters cut … "
        kept = (max_length - len(cut)) // 2
        text = text[:kept] + cut + text[-kept:]
    text = text.replace("\x00", "\ufffd")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
