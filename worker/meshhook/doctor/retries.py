"""Retries: deadlines that end them all, budgets that are spent, and dead letters nobody follows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from meshhook.doctor.finding import Finding, Severity, spelled
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meshhook.doctor.case import Case
    from meshhook.queue_config import QueueConfig

LONG_PUT_OFF_SECONDS = 600.0
"""How far ahead a budget may be spent: some minutes are what it is there for."""


async def look(case: Case) -> Sequence[Finding]:
    """Judge how each queue retries."""
    found = [finding for config in await case.configs() for finding in judge_deadline(config)]
    rows = await case.fetch(queries.load("examine_retries"), case.wanted)
    return [*found, *(finding for row in rows for finding in judge(row))]


def judge_deadline(config: QueueConfig) -> Iterator[Finding]:
    """Judge whether a failed job can be retried before it expires."""
    delays = config.retry_strategy(lambda: 1.0).get_all_retry_delays()
    if config.job_expiry_seconds is None or not delays:
        return
    first = delays[0] / 1000
    shortest = first * (1 - config.retry_jitter)
    if shortest >= config.job_expiry_seconds:
        yield _finding(
            config.queue,
            f"jobs expire {spelled(config.job_expiry_seconds)} after they were enqueued, and the "
            f"first retry comes {spelled(shortest)} after a failure: none is ever retried",
            f"meshhook queue set {config.queue} "
            f"job_expiry_seconds={math.ceil(sum(delays) / 1000) + 1}",
        )


def judge(row: Mapping[str, Any]) -> Iterator[Finding]:
    """Judge what is known of the budget of a queue, and of the queue that follows it."""
    queue = row["queue"]
    put_off = row["put_off_seconds"] or 0.0
    if row["max_retries_per_second"] is not None and put_off > LONG_PUT_OFF_SECONDS:
        yield _finding(
            queue,
            f"more attempts fail than max_retries_per_second ({row['max_retries_per_second']:g}) "
            f"lets through: the next retry is put off by {spelled(put_off)}",
            f"see what fails: meshhook jobs list --queue {queue} --state retrying;  another budget "
            f"begins anew: meshhook queue set {queue} max_retries_per_second=...",
        )
    if not row["is_followed"]:
        yield _finding(
            queue,
            f"dead_letter_follow_up names queue {row['dead_letter_follow_up']}, which does not "
            "exist: nothing follows its dead letters",
            f"meshhook queue create {row['dead_letter_follow_up']}",
        )
    if row["is_follow_up_refused"]:
        yield _finding(
            queue,
            f"dead_letter_follow_up names queue {row['dead_letter_follow_up']}, which requires "
            "encryption, and the database cannot encrypt: nothing follows its dead letters",
            f"name another queue, or let this one take others: meshhook queue set "
            f"{row['dead_letter_follow_up']} encryption=accept",
        )


def _finding(queue: str, message: str, remedy: str) -> Finding:
    return Finding("retries", Severity.WARNING, f"queue {queue}", message, remedy)
