"""Thousands of JobQueues of one author do not block those of others."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from meshhook.administration import create_queue
from meshhook.postgres.database import Database
from meshhook_operator.api.jobqueue import JobQueue
from meshhook_operator.operator import Operator
from support.jobqueues import jobqueue_body
from support.recorded_cluster import RecordedCluster
from support.waiting import eventually

MOST_CPU_SECONDS = 30.0
"""Of the event loop's thread, until all have their status: a multiple of what is needed."""


def make(namespace: str, name: str, **spec: Any) -> JobQueue:
    """Return a JobQueue that has its database in the Secret of its name."""
    database = {"secretRef": {"name": name}}
    body = jobqueue_body(name, database=database, queueName="jobs", **spec)
    body["metadata"] |= {"namespace": namespace, "uid": f"{namespace}-{name}"}
    return JobQueue.from_body(body)


@pytest.mark.timeout(600)  # each of them takes its time on a busy machine
@pytest.mark.parametrize(
    ("many", "secret"), [(2_000, None), (100, b"postgresql://u:p@127.0.0.1:1/app?n=%d")]
)
async def test_others_are_served_meanwhile(database_url, pool, many, secret):
    """Others are served whether the many Secrets are missing or lead nowhere."""
    await create_queue(Database(pool), "jobs")
    cluster = RecordedCluster()
    good = make("shop", "good", paused=True)
    cluster.secrets[good.key] = {"uri": database_url.encode()}
    bad = [make("other", f"bad-{index}") for index in range(many)]
    if secret is not None:
        for index, each in enumerate(bad):
            cluster.secrets[each.key] = {"uri": secret % index}
    operator = Operator(
        cluster=cast("Any", cluster), registry=CollectorRegistry(), namespaces=["*"]
    )
    cpu_before = time.thread_time()
    task = asyncio.create_task(operator.run(), name="operator")
    for each in bad:
        operator.on_jobqueue_changed(each)
    operator.on_jobqueue_changed(good)

    def is_served() -> bool:
        return (cluster.condition(good.key) or {}).get("reason") == "Operating"

    await eventually(is_served, timeout=280)
    if secret is None:
        await eventually(lambda: len(cluster.statuses) > many, timeout=280)
    assert time.thread_time() - cpu_before < MOST_CPU_SECONDS
    task.cancel()
    await asyncio.wait([task])


def test_a_spec_of_a_megabyte_is_taken_or_refused():
    """A huge spec costs no more than its length."""
    huge = "x" * 1_000_000
    odd = "\u202e\0\ud800"
    worker = {"image": "example.org/emails:1", "handler": "emails:send"}
    specs: tuple[dict[str, Any], ...] = (
        {"worker": worker | {"podLabels": {"team": huge}}},
        {"worker": worker | {"podAnnotations": {odd: huge}}},
        {"worker": worker | {"image": huge}},
        {"worker": worker | {"env": [{"name": f"N{n}", "value": "x"} for n in range(100_000)]}},
        {"queueName": huge},
        {odd: odd},
        {"scaling": {"maxReplicas": 10**400}},
        {"worker": worker | {"affinity": {"a": [[[[[]]]]] * 100_000}}},
    )
    for spec in specs:
        found = JobQueue.from_body(jobqueue_body(**spec))
        assert found.spec is not None or found.problem
