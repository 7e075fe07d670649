"""The demand of all queues of a database, read in one statement per tick."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from meshhook.errors import DatabaseReadOnlyError
from meshhook.postgres.driver_errors import translated_statement_errors
from meshhook.priorities import PRIORITY_NAMES
from meshhook_operator.api.status import PriorityStatus, QueueStatus
from meshhook_operator.scaling import Band, Sample, WorkerReport
from meshhook_operator.texts import capped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meshhook.postgres.database import Database

MISSING = "MHQ02"
"""The SQLSTATE in `problem_state` for a missing queue."""

READ_ONLY = "25006"
"""The SQLSTATE in `problem_state` if the session is read-only."""

MAX_COUNTED = 10_000
MIN_COUNTED = 1_000
COUNTED_IN_ALL = 400_000
_LONG_TEXT = 65_536


@dataclass(frozen=True, slots=True)
class DemandRequest:
    """One queue to read."""

    queue_name: str
    lookahead_seconds: float
    """How far ahead to count messages that fall due."""
    is_waiting: bool = False
    """Whether an insert should send a notification."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDemand:
    """What was read of one queue."""

    sample: Sample
    status: QueueStatus
    settings: Mapping[str, Any]
    """Its row of `queue_config`."""


@dataclass(frozen=True, slots=True)
class QueueProblem:
    """Why one queue could not be read although others could."""

    message: str
    is_missing: bool
    """Whether the queue is missing, or incomplete."""


async def read_demand(
    database: Database, requests: Sequence[DemandRequest], *, waiting_seconds: float
) -> dict[str, QueueDemand | QueueProblem]:
    """Read many queues of a database in one statement, and return the results by queue.

    Args:
        database: with the migrations applied.
        requests: the queues.
        waiting_seconds: for how long inserts into the waiting ones should send notifications.

    Raises:
        DatabaseReadOnlyError: if the session is read-only; the next call uses another one.
        DatabaseError: as `meshhook.postgres.database` says.
    """
    if not requests:
        return {}
    count_limit = max(MIN_COUNTED, min(MAX_COUNTED, COUNTED_IN_ALL // len(requests)))
    async with database.acquire() as connection:
        with translated_statement_errors():
            rows = await connection.fetch(
                load("queue_demand"),
                [each.queue_name for each in requests],
                [each.lookahead_seconds for each in requests],
                [each.queue_name for each in requests if each.is_waiting],
                waiting_seconds,
                count_limit,
            )
        for row in rows:
            # Reported for a queue, but true of the session. Raising it here discards the session.
            if row["problem_state"] == READ_ONLY:
                raise DatabaseReadOnlyError(
                    f"the database is read-only here: {row['problem']}. Use the primary, and "
                    "a session without default_transaction_read_only"
                )
    answers = {row["queue_name"]: row for row in rows}
    found: dict[str, QueueDemand | QueueProblem] = {}
    for name in dict.fromkeys(each.queue_name for each in requests):
        if (answer := answers.get(name)) is None:
            message = "the answer of the database does not include this queue"
            found[name] = QueueProblem(message, is_missing=False)
            continue
        found[name] = _found(dict(answer), count_limit)
        if len(answer["workers"] or "") > _LONG_TEXT:
            await asyncio.sleep(0)  # let the ticks of other databases run
    return found


@cache
def load(name: str) -> str:
    """Return the statement `sql/<name>.sql`."""
    return resources.files("meshhook_operator").joinpath("sql", f"{name}.sql").read_text("utf-8")


_Count = Annotated[int, Field(ge=0, le=1_000_000)]
_Total = Annotated[int, Field(ge=0, le=2**63 - 1)]
_Seconds = Annotated[float, Field(ge=-1e14, le=1e14, allow_inf_nan=False)]
_Name = Annotated[str, Field(max_length=1_000)]


class _Report(BaseModel):
    """A row of `meshhook.workers`."""

    worker: _Name
    host: _Name
    concurrency: _Count
    running: _Count
    processed: _Total
    busy_seconds: _Seconds
    oldest_running_seconds: _Seconds = 0.0
    seen_at: _Seconds
    draining: bool
    cordoned: bool = False
    cordon_seconds: _Seconds = 0.0


class _Band(BaseModel):
    """A band of a queue with priorities."""

    target_seconds: Annotated[float, Field(ge=0.1, le=604_800)]
    ready: _Count
    is_capped: bool
    aged: _Count
    running: _Count
    due_soon: _Count
    oldest_ready_seconds: _Seconds


class _Row(BaseModel):
    """A queue as the database answered. The server may be anybody's, so nothing is trusted."""

    config: Annotated[str, Field(max_length=65_536)]
    workers: Annotated[str, Field(max_length=4_194_304)] | None
    sampled_at: _Seconds
    ready: _Count
    ready_is_capped: bool
    lost: _Count
    running: _Count
    scheduled: _Count
    retrying: _Count
    hidden_is_capped: bool
    due_soon: _Count
    next_due_seconds: _Seconds | None
    oldest_ready_seconds: _Seconds
    enqueued_total: _Total
    dead_letters: _Count
    kept_by_hold: _Count = 0
    kept_by_key: _Count = 0
    kept_by_queue: _Count = 0
    bands: Annotated[str, Field(max_length=65_536)] | None = None


_REPORTS = TypeAdapter(Annotated[list[_Report], Field(max_length=10_000)])
_BANDS = TypeAdapter(
    Annotated[list[_Band], Field(min_length=len(PRIORITY_NAMES), max_length=len(PRIORITY_NAMES))]
)
_CONFIG = TypeAdapter(dict[str, Any])


def _found(row: Mapping[str, Any], count_limit: int) -> QueueDemand | QueueProblem:
    if row["problem"] is not None:
        problem = capped(str(row["problem"]))
        return QueueProblem(problem, is_missing=row["problem_state"] == MISSING)
    try:
        return _demand(_Row.model_validate(row), count_limit)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        return QueueProblem(
            f"the answer of the database is malformed: {field}: {first['msg']}", is_missing=False
        )


def _demand(row: _Row, count_limit: int) -> QueueDemand:
    reports = _REPORTS.validate_json(row.workers or "[]")
    # Long leases sort behind scheduled messages, where the count may not reach them. The workers'
    # reports give a lower bound.
    reported = sum(report.running for report in reports)
    running = max(row.running, reported) if row.hidden_is_capped else row.running
    kept_back = (row.kept_by_hold, row.kept_by_key, row.kept_by_queue)
    kept_back_is_capped = max(kept_back) >= count_limit
    is_capped = row.ready_is_capped or row.hidden_is_capped or kept_back_is_capped
    hidden = running + row.scheduled + row.retrying
    settings = _CONFIG.validate_json(row.config)
    bands = _BANDS.validate_json(row.bands) if row.bands is not None else []
    # Order is the tightest limit of a key, whatever others there are.
    is_ordered = settings.get("ordered") is True
    return QueueDemand(
        sample=Sample(
            sampled_at=row.sampled_at,
            ready=row.ready,
            ready_is_capped=row.ready_is_capped,
            lost=row.lost,
            due_soon=row.due_soon,
            next_due_seconds=row.next_due_seconds,
            leased=running,
            oldest_ready_seconds=max(0.0, row.oldest_ready_seconds),
            enqueued_total=row.enqueued_total,
            unfinished=None if is_capped else row.ready + row.lost + hidden,
            kept_back=sum(kept_back),
            behind_limits=row.kept_by_key + row.kept_by_queue,
            kept_back_is_capped=kept_back_is_capped,
            workers=tuple(WorkerReport(**report.model_dump()) for report in reports),
            bands=tuple(Band(**band.model_dump()) for band in bands),
        ),
        status=QueueStatus(
            ready=row.ready + row.lost,
            running=running,
            scheduled=row.scheduled,
            retrying=row.retrying,
            dead_letters=row.dead_letters,
            oldest_ready_seconds=int(max(0.0, row.oldest_ready_seconds)),
            kept_back=sum(kept_back),
            kept_back_by_holds=row.kept_by_hold,
            kept_back_by_key_limits=0 if is_ordered else row.kept_by_key,
            kept_back_by_order=row.kept_by_key if is_ordered else 0,
            kept_back_by_queue_limit=row.kept_by_queue,
            priorities={
                name: PriorityStatus(
                    ready=band.ready,
                    oldest_ready_seconds=int(max(0.0, band.oldest_ready_seconds)),
                    target_seconds=band.target_seconds,
                )
                for name, band in zip(PRIORITY_NAMES, bands, strict=True)
            }
            if bands
            else None,
        ),
        settings=settings,
    )
