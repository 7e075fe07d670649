"""What kubectl shows: the story of a queue in sentences, and each change as one event."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from support.cluster.api import Api
from support.cluster.control_plane import ControlPlane
from support.cluster.objects import grant, job_queue
from support.cluster.operator_process import OperatorProcess
from support.cluster.programs import program_path
from support.cluster.views import JobQueueView
from support.waiting import eventually

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Kubectl: TypeAlias = Callable[..., str]

READING = [
    {"apiGroups": ["meshhook.io"], "resources": ["jobqueues"], "verbs": ["get", "list"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]},
]
SHORT = {"scaling": {"maxReplicas": 3, "targetAgeSeconds": 2}}
"""A maximum and a target age that a thousand messages exceed at once."""


@pytest.fixture
async def kubectl(api: Api, control_plane: ControlPlane, tmp_path: Path) -> Kubectl:
    """Runs kubectl as somebody who may look at JobQueues and events, and returns what it shows."""
    await grant(api, "reader", READING)
    kubeconfig = control_plane.write_kubeconfig(
        tmp_path / "reader", token=await api.token_of("reader"), namespace=api.namespace
    )

    def run(*arguments: str) -> str:
        command = [str(program_path("kubectl")), "--kubeconfig", str(kubeconfig), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    return run


async def created(api: Api, **spec: Any) -> JobQueueView:
    """Create a JobQueue, and wait until its worker is ready."""
    await api.create(job_queue(**spec))
    view = JobQueueView(api)
    await view.until_condition("Active", "True")
    return view


async def reasons(view: JobQueueView) -> Counter[str]:
    """Return how often each reason is among the events of a JobQueue."""
    return Counter(event["reason"] for event in await view.events())


async def until_told(view: JobQueueView, *expected: str) -> None:
    """Wait until there is an event of each reason."""

    async def is_told() -> bool:
        missing = set(expected) - (await reasons(view)).keys()
        assert not missing, missing
        return True

    await eventually(is_told, 60)


async def notes(view: JobQueueView, reason: str) -> list[str]:
    """Return what the events of a reason say."""
    return [each["note"] for each in await view.events() if each["reason"] == reason]


async def note(view: JobQueueView, reason: str) -> str:
    """Return what the only event of a reason says."""
    (found,) = await notes(view, reason)
    return found


async def test_each_change_is_one_event(
    api: Api, operator: OperatorProcess, database: str, sql: Connection
):
    """Creation, scaling, a limit, lateness, a pause and its end: each is told once, with why."""
    view = await created(api, **SHORT)
    await until_told(view, "QueueCreated", "DeploymentCreated")
    assert "in the database of Secret 'database'" in await note(view, "QueueCreated")
    await sql.execute("select pgmq.send_batch('emails', array_fill('{}'::jsonb, array[1000]))")
    await until_told(view, "ScaledUp", "MaxReplicas", "TargetAgeMissed")
    assert (await note(view, "ScaledUp")).startswith(
        "Scaled from 1 to 3 replicas. 1,000 messages are ready"
    )
    assert "raise spec.scaling.maxReplicas" in await note(view, "MaxReplicas")
    await api.patch("JobQueue", "emails", {"spec": {"paused": True}})
    await until_told(view, "SpecPaused")
    await api.patch("JobQueue", "emails", {"spec": {"paused": False}})
    await until_told(view, "Resumed")
    told = await reasons(view)
    assert told == Counter(told.keys()), told
    await view.until_condition("OnTime", "False", reason="TargetAgeMissed")


async def test_a_queue_that_was_there_is_adopted(
    api: Api, operator: OperatorProcess, database: str, sql: Connection
):
    """A queue that PGMQ had is not called created: its messages are still there."""
    await sql.execute("select pgmq.create('emails')")
    view = await created(api)
    await until_told(view, "QueueAdopted")
    assert "with its messages" in await note(view, "QueueAdopted")
    assert "QueueCreated" not in await reasons(view)


async def test_replicas_that_somebody_else_sets_are_no_flood(
    api: Api, operator: OperatorProcess, database: str
):
    """However often they are set and set back, that is told once a minute, and by whom once."""
    view = await created(api)
    began_at = time.monotonic()
    for _ in range(6):
        await api.patch("Deployment", "emails-worker", {"spec": {"replicas": 5}})
        await view.until_replicas(1)
    await until_told(view, "ScaledDown", "ReplicasContested")
    minutes = (time.monotonic() - began_at) / 60
    told = await reasons(view)
    assert told["ReplicasContested"] == 1
    assert 1 <= told["ScaledDown"] <= 1 + minutes
    for said in await notes(view, "ScaledDown"):
        assert "somebody else had changed the number" in said


async def test_describe_tells_the_story(
    api: Api, operator: OperatorProcess, database: str, sql: Connection, kubectl: Kubectl
):
    """`kubectl describe` says what was measured, what it calls for, what limits it, what to do."""
    view = await created(api, **SHORT)
    await sql.execute("select pgmq.send_batch('emails', array_fill('{}'::jsonb, array[1000]))")
    await until_told(view, "MaxReplicas", "TargetAgeMissed")
    shown = kubectl("describe", "jobqueue", "emails")
    assert "1000 messages are ready" in shown.replace(",", "")
    assert "so 100 replicas are needed" in shown
    assert "maxReplicas allows 3, so jobs may wait longer than 2 s." in shown
    assert "signal" not in shown.partition("Events:")[2]


async def test_get_fits_on_a_screen(
    api: Api, operator: OperatorProcess, database_url: str, kubectl: Kubectl
):
    """`kubectl get` has at most 120 columns, also with a long name and the longest reason."""
    name = "order-shipments"
    await api.create(job_queue(name))  # without a Secret
    view = JobQueueView(api, name=name)
    await view.until_condition("Ready", "False", reason="SecretNotFound")
    shown = kubectl("get", "jobq")
    assert "SecretNotFound" in shown
    longest = len("DatabaseHostNotAllowed") - len("SecretNotFound")
    assert max(map(len, shown.splitlines())) + longest <= 120
    (header, row) = kubectl("get", "jobq", "-o", "wide").splitlines()
    assert row[header.index("MESSAGE") :].startswith(
        "The queue cannot be read, so no replica is started. Secret 'database' does not exist."
    )
