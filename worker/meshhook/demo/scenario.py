"""What the demo plays: its sizes and settings, and the deliveries made from the example data."""

from __future__ import annotations

import gzip
import json
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from meshhook.jobs import WorkflowJob

if TYPE_CHECKING:
    from collections.abc import Iterator

QUEUE_NAME = "workflow_jobs"
JOB_COUNT = 2_000
WORKER_COUNT = 2
CONCURRENCY = 16
"""How many jobs each worker process runs at once."""
ENQUEUE_BATCH = 250
"""How many jobs one call of `enqueue_many` stores."""
KILL_AT_SHARE = 0.4
"""One worker is killed when this share of the jobs is done."""
TIME_LIMIT_SECONDS = 300.0
"""The demo gives up after this long."""
HTTP_TIMEOUT_SECONDS = 1.0
"""How long a worker waits for the receiver's answer."""
SEED = 1
"""Which deliveries the receiver treats badly."""

QUEUE_SETTINGS: dict[str, Any] = {
    # Short, so that the jobs of the killed worker and the failed ones come back while one watches.
    "visibility_timeout_seconds": 5,
    "retry_backoff_base_ms": 200,
    "retry_backoff_max_ms": 2_000,
    "max_retry_attempts": 5,
    # The key of a job is its receiver: one that is down keeps only its own jobs waiting.
    "keyed": True,
    "breaker_failures": 8,
    "breaker_pause_seconds": 1.0,
    "breaker_max_pause_seconds": 1.0,
    "job_timeout_seconds": 10,
}

_NAMESPACE = UUID("b8f0a3f4-7d0c-5f0e-9a53-3b6f2d1c8e47")
RECEIVERS = tuple(f"receiver-{number}" for number in range(10))
"""The receivers, each of a project of its own. A program of one process plays all of them."""
DOWN = RECEIVERS[3]
"""The receiver that is down for a while."""
DOWN_SECONDS = 2.5
"""For how long."""


def deliveries(count: int, url: str) -> Iterator[WorkflowJob]:
    """Return `count` deliveries to the receivers below `url`: the example webhooks, over and over.

    Identifiers depend on the position alone, so every run of the demo has the same ones.
    """
    webhooks = load_webhooks()
    for position in range(count):
        webhook = webhooks[position % len(webhooks)]
        yield WorkflowJob(
            run_id=str(_identifier("run", position)),
            workflow_id=str(_identifier("workflow", webhook["event"])),
            project_id=project_ids()[position % len(RECEIVERS)],
            payload={
                "url": f"{url}/{receiver_of(position)}",
                "id": delivery_id(position),
                "headers": {"x-github-event": webhook["event"]},
                "body": webhook["payload"],
            },
        )


def receiver_of(position: int) -> str:
    """Return the receiver of the delivery at a position."""
    return RECEIVERS[position % len(RECEIVERS)]


def delivery_id(position: int) -> str:
    """Return the id of the delivery at a position, as Standard Webhooks writes them."""
    return f"msg_{_identifier('delivery', position).hex}"


@cache
def project_ids() -> tuple[str, ...]:
    """Return the projects that every job of the demo belongs to: by them it knows its own."""
    return tuple(str(_identifier("project", number)) for number in range(len(RECEIVERS)))


@cache
def load_webhooks() -> tuple[dict[str, Any], ...]:
    """Return the example webhooks: `event` and `payload` of each."""
    packed = resources.files("meshhook.demo") / "data" / "github-webhooks.jsonl.gz"
    lines = gzip.decompress(packed.read_bytes()).splitlines()
    return tuple(json.loads(line) for line in lines)


def _identifier(kind: str, key: object) -> UUID:
    return uuid5(_NAMESPACE, f"{kind}:{key}")
