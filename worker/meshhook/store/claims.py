"""Claiming: leasing ready messages and turning their rows into jobs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from meshhook.jobs import CLAIM_HEADER, Job, moment_from
from meshhook.priorities import Priority
from meshhook.store import queries
from meshhook.store.message_headers import decode_headers

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from meshhook.jobs import JobKey
    from meshhook.queue_config import KeyPlace

EVERYTHING = datetime.min.replace(tzinfo=UTC)
"""A lower bound of `vt` below that of every message."""
MAX_COUNT = 1_000_000_000
"""The same limit as in `meshhook.json_count`."""


class ClaimClass(IntEnum):
    """How strongly a message is suspected of killing the process that runs it."""

    HEALTHY = 0
    """No attempt was lost."""
    LOST_ONCE = 1
    """One attempt was lost and more are left: it runs only beside others of its class."""
    SUSPECT = 2
    """Several were lost, or this is the last attempt: it is claimed alone and runs alone."""


class KeyShare(NamedTuple):
    """The key of a message, and its part of what runs."""

    key: str | None
    """The key; None where it is not UTF-8."""
    weight: float
    """Relative to other keys; 1 if the claim did not look at this key."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The messages that one statement leased: all of one class, oldest first."""

    jobs: list[Job[Any]]
    claim_class: ClaimClass
    """The class of all of them; HEALTHY if there are none."""
    new_losses: int = 0
    """How many lost attempts the statement recorded in the history."""
    oldest_due: datetime | None = None
    """The smallest `vt` of all messages that were ready, where they have keys; else None."""
    next_key: str | None = None
    """With which key to begin next time, where not all were looked at; else None."""
    first_later: datetime | None = None
    """The `vt` of the first message that was not due, where a bound was given; else None."""
    shares: Mapping[JobKey, KeyShare] | None = None
    """The keys of the messages by job, where they have keys; else None."""
    bands: Mapping[JobKey, int] | None = None
    """The bands of the messages by job, where they have priorities; else None."""
    aged: Collection[JobKey] = ()
    """Those of them that were taken before more urgent ones because they have waited for long."""
    asked_timestamp: float = 0.0
    """When it was made by the database's clock, in seconds since 1970, where they have priorities;
    else 0."""

    @property
    def unread(self) -> list[Job[Any]]:
        """Those whose message is not read yet, because it is large or came after large ones."""
        return [job for job in self.jobs if not job.body]


async def claim(
    database: Any,
    tables: queries.QueueTables,
    *,
    lease_seconds: float,
    limit: int,
    max_attempts: int,
    from_vt: datetime = EVERYTHING,
    to_vt: datetime | None = None,
    keys: KeyPlace | None = None,
    is_limited: bool = False,
    from_key: str | None = None,
    later_from: datetime | None = None,
) -> Claim:
    """Lease up to `limit` ready messages whose `vt` is at least `from_vt` and at most `to_vt`.

    Args:
        database: where the queue is.
        tables: the queue's tables.
        lease_seconds: how long the leases last.
        limit: the most messages to lease, at least 1.
        max_attempts: how many attempts a job has in total.
        from_vt: a lower bound, which avoids walking dead index entries again. Default: none.
        to_vt: an upper bound in addition to the current time. Default: none.
        keys: where the keys of messages are, to lease in fair shares. Default: oldest first.
        is_limited: whether the queue or its keys have limits: claims then wait for each other.
            If they have some that the caller does not know of, nothing is claimed. Default false.
        from_key: with which key to begin, as an earlier claim said. Default: any.
        later_from: a bound between the messages that are due and those that fall due later, as an
            earlier claim said in `first_later`: it avoids walking the dead index entries between
            them, where there are no limits. `EVERYTHING` means that it is not known yet. Default:
            none, and none is returned.
    """
    arguments = (
        lease_seconds,
        # Other clients may have stored times earlier than Python can represent.
        None if from_vt <= EVERYTHING else from_vt,
        limit,
        max_attempts,
        to_vt,
        tables.queue_name,
    )
    if keys is not None:
        if is_limited:
            sql = queries.load("claim_keyed", tables, key_path=keys.path)
            rows = await database.fetch(
                queries.load("claim_in_turn"),
                tables.queue_name,
                sql,
                *arguments[:-1],
                from_key,
                keys.path,
            )
        else:
            sql = queries.load(
                "claim_keyed", tables, key_path=keys.path, has_later_bound=later_from is not None
            )
            bound = () if later_from is None else (later_from,)
            rows = await database.fetch(sql, *arguments, from_key, keys.path, is_limited, *bound)
        return _keyed_claim(rows, tables, max_attempts)
    rows = await database.fetch(queries.load("claim", tables), *arguments)
    if not rows:
        return Claim([], ClaimClass.HEALTHY)
    claim_class = ClaimClass(rows[0]["class"])
    new_losses = 0 if claim_class is ClaimClass.HEALTHY else sum(r["is_new_loss"] for r in rows)
    return Claim(jobs_from(rows, tables.queue_name, max_attempts), claim_class, new_losses)


async def claim_by_priority(
    database: Any,
    tables: queries.QueueTables,
    *,
    lease_seconds: float,
    limit: int,
    max_attempts: int,
    aged_seconds: Sequence[float],
    most_aged: int,
    ranges: Sequence[tuple[datetime, datetime | None]] = ((EVERYTHING, None),) * len(Priority),
    last: int = Priority.LOW,
) -> Claim:
    """Lease up to `limit` ready messages of a queue with priorities: the most urgent, then by age.

    Args:
        database: where the queue is.
        tables: the queue's tables.
        lease_seconds: how long the leases last.
        limit: the most messages to lease, at least 1.
        max_attempts: how many attempts a job has in total.
        aged_seconds: after how long a message of each band is aged.
        most_aged: how many aged messages, from high to low, may go before more urgent ones.
        ranges: between which `vt` to look in each band; None means now. Default: everywhere.
        last: the least urgent band to look at. Default: low.
    """
    *rows, end = await database.fetch(
        queries.load("claim_prioritized", tables),
        lease_seconds,
        # Other clients may have stored times earlier than Python can represent.
        [None if from_vt <= EVERYTHING else from_vt for from_vt, _ in ranges],
        limit,
        max_attempts,
        [to_vt for _, to_vt in ranges],
        tables.queue_name,
        aged_seconds,
        most_aged,
        last,
    )
    claim_class = ClaimClass(rows[0]["class"]) if rows else ClaimClass.HEALTHY
    is_suspect = claim_class is not ClaimClass.HEALTHY
    return Claim(
        jobs_from([row[:-2] for row in rows], tables.queue_name, max_attempts),
        claim_class,
        sum(row["is_new_loss"] for row in rows) if is_suspect else 0,
        bands={(row[0], row[2]): row[-2] for row in rows},
        aged={(row[0], row[2]) for row in rows if row[-1]},
        asked_timestamp=end["claimed"],
    )


def _keyed_claim(rows: Sequence[Any], tables: queries.QueueTables, max_attempts: int) -> Claim:
    *claimed, (_, _, _, first_later, *_, oldest_due, next_key) = rows
    claim_class = ClaimClass(claimed[0]["class"]) if claimed else ClaimClass.HEALTHY
    is_suspect = claim_class is not ClaimClass.HEALTHY
    return Claim(
        jobs_from([row[:-2] for row in claimed], tables.queue_name, max_attempts),
        claim_class,
        sum(row["is_new_loss"] for row in claimed) if is_suspect else 0,
        None if oldest_due is None else moment_from(oldest_due),
        next_key,
        None if first_later is None else moment_from(first_later),
        {(row[0], row[2]): KeyShare(row[-1], row[-2]) for row in claimed},
    )


def jobs_from(rows: Sequence[Any], queue_name: str, max_attempts: int) -> list[Job[Any]]:
    """Return the jobs that claimed rows hold, oldest first; their payloads are not decoded yet."""
    jobs: list[Job[Any]] = []
    for msg_id, read_ct, enqueued, ready, claim_class, body, headers, claimed, _ in rows:
        job: Job[Any] = Job(
            queue=queue_name,
            msg_id=msg_id,
            attempt=read_ct,
            max_attempts=max_attempts,
            enqueued_timestamp=enqueued,
            # Another client may say that it was enqueued at any time, also one that is to come.
            # A call of `min` would take a tenth of the time of this loop.
            ready_timestamp=ready if ready < claimed else claimed,  # noqa: FURB136
            claimed_timestamp=claimed,
            headers=decode_headers(headers) if headers else {},
            # Without a body the message is read separately.
            body=body or "",
        )
        if headers:
            job.apply_retry_policy()
            if CLAIM_HEADER in job.headers:
                _count_attempts(job, is_suspect=claim_class != ClaimClass.HEALTHY)
        jobs.append(job)
    jobs.sort(key=_by_age)
    return jobs


def take_in(job: Job[Any], body: str, headers: str) -> None:
    """Set the message of a claimed job that was read separately from its claim."""
    job.body = body
    job.headers = decode_headers(headers) if headers else {}
    job.apply_retry_policy()
    mark = job.headers.get(CLAIM_HEADER)
    if mark is not None:
        # A claim marks suspects only.
        is_new = isinstance(mark, dict) and mark.get("read_ct") == job.read_ct
        _count_attempts(job, is_suspect=is_new)


def _count_attempts(job: Job[Any], *, is_suspect: bool) -> None:
    """Tell attempts from mere reads by the mark that a claim leaves: see `meshhook.claim_mark`."""
    mark = job.headers[CLAIM_HEADER]
    if not isinstance(mark, dict):
        return  # another client's unusable value under our header's name
    marked_read_ct, attempt, lost = (
        count if type(count := mark.get(name)) is int else -1
        for name in ("read_ct", "attempt", "lost")
    )
    if 0 < marked_read_ct <= job.read_ct and 0 < attempt <= MAX_COUNT and 0 <= lost <= MAX_COUNT:
        job.attempt = attempt + job.read_ct - marked_read_ct
        job.lost_attempts = lost if is_suspect else 0


def _by_age(job: Job[Any]) -> tuple[float, int]:
    return job.ready_timestamp, job.msg_id
