"""Settings of queues that fight each other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from meshhook.doctor.finding import Finding, Severity, spelled

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meshhook.doctor.case import Case
    from meshhook.queue_config import QueueConfig

SHORT_LEASE_SECONDS = 5
_DAY = 86_400.0


async def look(case: Case) -> Sequence[Finding]:
    """Judge the settings of each queue."""
    return [finding for config in await case.configs() for finding in judge(config)]


def judge(config: QueueConfig) -> Iterator[Finding]:
    """Judge the settings of one queue."""
    delays = config.retry_strategy(lambda: 1.0).get_all_retry_delays()
    attempts_seconds = (config.job_timeout_seconds or 0.0) * config.max_retry_attempts
    span = sum(delays) / 1000 + attempts_seconds
    if span > config.history_retention_days * _DAY:
        yield _finding(
            config,
            f"a job may be retried for {spelled(span)}, and its attempts are forgotten after "
            f"{config.history_retention_days} days: how it began is lost",
            f"history_retention_days={math.ceil(span / _DAY)}",
        )
    if config.visibility_timeout_seconds < SHORT_LEASE_SECONDS:
        yield _finding(
            config,
            f"a lease of {config.visibility_timeout_seconds} s is lost by a pause of the worker or "
            "a failover, and the job runs twice",
            "visibility_timeout_seconds=30",
        )
    if config.job_timeout_seconds is None:
        yield _finding(
            config,
            "jobs have no time limit: one that hangs keeps its slot until the worker stops",
            "job_timeout_seconds=3600",
        )
    if config.dlq_retention_days is not None and (
        config.dlq_retention_days > config.history_retention_days
    ):
        yield _finding(
            config,
            f"dead letters are kept for {config.dlq_retention_days} days, and the attempts that "
            f"explain them for {config.history_retention_days}",
            f"history_retention_days={config.dlq_retention_days}",
        )
    if (
        config.max_running is not None
        and config.max_running_per_key is not None
        and config.max_running_per_key > config.max_running
    ):
        yield _finding(
            config,
            f"max_running_per_key ({config.max_running_per_key}) is more than max_running "
            f"({config.max_running}), and limits nothing",
            f"max_running_per_key={config.max_running}",
        )


def _finding(config: QueueConfig, message: str, setting: str) -> Finding:
    return Finding(
        "settings",
        Severity.WARNING,
        f"queue {config.queue}",
        message,
        f"meshhook queue set {config.queue} {setting}",
    )
