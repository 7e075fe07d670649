"""JobQueues with priorities: what the API server refuses, and what the operator does."""

from __future__ import annotations

from typing import Any, TypeAlias

import asyncpg
import pytest

from support.cluster.api import Api, ApiError
from support.cluster.objects import job_queue
from support.cluster.views import JobQueueView
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("operator")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"priorities": {}, "keys": {}}, "a queue has either keys or priorities"),
        ({"priorities": {"targetSeconds": {"urgent": 20}}}, "urgent is more than high"),
        ({"priorities": {"targetSeconds": {"low": 9}}}, "normal is more than low"),
        ({"priorities": {"enabled": False, "urgentSlots": 1}}, "need enabled: true"),
        ({"priorities": {"urgentSlots": -1}}, "spec.priorities.urgentSlots"),
    ],
)
async def test_what_cannot_be_is_refused(api: Api, spec: dict[str, Any], told: str) -> None:
    """The API server names the field or the rule."""
    with pytest.raises(ApiError, match=told):
        await api.create(job_queue(**spec))


async def test_urgent_jobs_are_planned_for(api: Api, database: str, sql: Connection) -> None:
    """The operator builds the index, shows the bands, and says which of them is late."""
    await api.create(job_queue(priorities={"targetSeconds": {"urgent": 1}}))
    view = JobQueueView(api, deployment="emails-worker")
    await view.until_condition("Ready", "True")

    async def is_prioritized() -> bool:
        return bool(await sql.fetchval("select prioritized from meshhook.queue_config"))

    await eventually(is_prioritized)
    await sql.execute(
        "select meshhook.enqueue_many('emails', array_fill('{}'::jsonb, array[60]), "
        'headers => \'{"meshhook-priority": "urgent"}\')'
    )
    await sql.execute("select meshhook.enqueue('emails', '{}')")

    async def are_shown() -> bool:
        found = (await view.status()).get("queue", {}).get("priorities") or {}
        return {name: each["ready"] for name, each in found.items()} == {
            "urgent": 60,
            "high": 0,
            "normal": 1,
            "low": 0,
        }

    await eventually(are_shown, 60)
    await view.until_replicas(7)
    late = await view.until_condition("OnTime", "False")
    assert "urgent jobs wait" in late["message"]
