"""Workers follow the queue up, down, to zero and back."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import add_schedule, hold_key, pause_schedule, resume_key
from meshhook.administration import set_queue_config
from support.cluster.api import Api, Object
from support.cluster.objects import database_secret, deployment, job_queue
from support.cluster.operator_process import OperatorProcess
from support.cluster.views import JobQueueView
from support.schedules import make_due
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("operator")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

OBEY = """
create function public.obey() returns trigger language plpgsql as $$
begin
    new.cordoned := coalesce(new.cordoned_until > now(), false);
    return new;
end
$$;
create trigger obey before update on meshhook.workers for each row execute function public.obey()
"""
"""Lets workers that a test has written obey a cordon at once."""
QUICK: dict[str, Any] = {"scaleDown": {"windowSeconds": 1}, "cooldownSeconds": 1}
"""Scales down as soon as it can."""


async def ready_job_queue(api: Api, **spec: Any) -> JobQueueView:
    """Create a JobQueue, and wait until it is Ready."""
    await api.create(job_queue(**spec))
    deployment = spec["deploymentRef"]["name"] if "deploymentRef" in spec else "emails-worker"
    view = JobQueueView(api, deployment=deployment)
    await view.until_condition("Ready", "True")
    return view


async def send(sql: Connection, count: int, *, delay_seconds: int = 0) -> None:
    """Send messages to the queue, all at once."""
    await sql.execute(
        "select pgmq.send_batch('emails', array_fill('{}'::jsonb, array[$1::int]), $2::int)",
        count,
        delay_seconds,
    )


async def ticks(operator: OperatorProcess, count: int) -> None:
    """Wait for a number of further ticks of the operator."""
    name = "meshhook_operator_tick_duration_seconds_count"
    start = operator.metric(name) or 0
    await eventually(
        lambda: (operator.metric(name) or 0) >= start + count, 60 + count, message=f"{count} ticks"
    )


async def follow_replicas(view: JobQueueView, since: Object, *, until: int) -> list[int]:
    """Return the replicas that the Deployment had, one after another, up to `until`."""
    seen: list[int] = [since["spec"]["replicas"]]
    async for _, found in view.api.watch("Deployment", since=since):
        replicas = found["spec"]["replicas"]
        if found["metadata"]["name"] == view.deployment and seen[-1] != replicas:
            seen.append(replicas)
        if seen[-1] == until:
            break
    return seen


async def test_a_backlog_calls_for_workers(api: Api, database: str, sql: Connection):
    """80 ready messages with a targetLength of 10 give 8 workers, and the status says why."""
    view = await ready_job_queue(api)
    await send(sql, 80)
    await view.until_replicas(8)
    await view.until_ready_replicas(8)

    async def is_told() -> bool:
        status = await view.status()
        assert "scaling" in status, status  # Ready may be told before the first decision
        assert (status["desiredReplicas"], status["queue"]["ready"]) == (8, 80), status
        assert status["scaling"]["signals"]["backlog"] == 8
        assert status["scaling"]["message"].startswith("80 messages are ready")
        assert status["lastScaleTime"]
        return True

    await eventually(is_told)


async def test_a_scale_up_is_an_event(api: Api, database: str, sql: Connection):
    """`kubectl describe` shows from how many to how many, and why."""
    view = await ready_job_queue(api, scaling=QUICK | {"minReplicas": 0})
    await view.until_replicas(0)
    await send(sql, 50)
    await view.until_replicas(5)

    async def is_told() -> bool:
        return any(
            "Scaled from 0 to 5 replicas. 50 messages" in event["note"]
            for event in await view.events()
        )

    await eventually(is_told)


async def test_never_more_than_the_maximum(api: Api, database: str, sql: Connection):
    """A backlog for 100 workers starts maxReplicas, and ScalingLimited says so."""
    view = await ready_job_queue(api)
    await send(sql, 1000)
    await view.until_replicas(10)
    await view.until_condition("ScalingLimited", "True", reason="MaxReplicas")


async def test_a_drained_queue_goes_down_to_the_minimum(api: Api, database: str, sql: Connection):
    """Without messages the workers are removed, down to minReplicas."""
    view = await ready_job_queue(api, scaling=QUICK | {"minReplicas": 2})
    await send(sql, 60)
    await view.until_replicas(6)
    await sql.execute("select pgmq.purge_queue('emails')")
    await view.until_replicas(2)


async def test_down_in_steps(api: Api, database: str, sql: Connection):
    """Eight workers of an empty queue are removed in steps, never all at once (KEDA 7770)."""
    view = await ready_job_queue(api, scaling=QUICK | {"minReplicas": 0})
    await send(sql, 80)
    await view.until_replicas(8)
    before = await api.get("Deployment", view.deployment)
    await sql.execute("select pgmq.purge_queue('emails')")
    seen = await asyncio.wait_for(follow_replicas(view, before, until=0), 100)
    steps = [replicas for replicas in seen if replicas not in {0, 8}]
    assert len(steps) >= 2
    assert seen == sorted(seen, reverse=True)


async def test_from_zero_at_the_first_message(api: Api, database: str, sql: Connection):
    """A message to a queue without workers wakes it at once, long before the next tick."""
    view = await ready_job_queue(api, scaling=QUICK | {"minReplicas": 0, "tickSeconds": 60})
    await view.until_replicas(0)
    await view.until_condition("Active", "False", reason="ScaledToZero")

    async def waits() -> bool:
        waiting = await sql.fetchval("select last_value from meshhook.waiting_emails")
        return bool(waiting > 0)

    await eventually(waits)
    await send(sql, 1)
    await view.until_replicas(1)

    async def has_pod() -> bool:
        return len(await api.list("Pod", labelSelector="meshhook.io/jobqueue=emails")) == 1

    await eventually(has_pod)


async def test_a_held_key_starts_no_worker(
    api: Api, database: str, sql: Connection, operator: OperatorProcess
):
    """80 messages of a held key leave the queue at zero until its hold ends, and are told."""
    await sql.execute("select meshhook.create_queue('emails')")
    await set_queue_config(sql, "emails", keyed=True)
    await hold_key(sql, "emails", "tenant-7")
    await sql.execute(
        "select meshhook.enqueue_many('emails', array_fill('{}'::jsonb, array[80]), "
        "key => 'tenant-7')"
    )
    view = await ready_job_queue(api, scaling=QUICK | {"minReplicas": 0})

    async def is_told() -> bool:
        status = await view.status()
        assert "scaling" in status, status  # Ready may be told before the first decision
        queue = status["queue"]
        return bool(
            (queue["ready"], queue["keptBack"], queue["keptBackByHolds"]) == (0, 80, 80)
            and "80 messages are kept back by a hold of their keys" in status["scaling"]["message"]
            and "meshhook keys list emails" in status["scaling"]["message"]
        )

    await eventually(is_told)
    await ticks(operator, 6)
    assert await view.replicas() == 0
    await view.until_condition("OnTime", "True")
    await resume_key(sql, "emails", "tenant-7")
    await view.until_replicas(8)


async def test_a_limit_bounds_the_workers(api: Api, database: str, sql: Connection):
    """500 messages of a key of which 20 may run start two workers for ten jobs each, not fifty."""
    await sql.execute("select meshhook.create_queue('emails')")
    await set_queue_config(sql, "emails", keyed=True, max_running_per_key=20)
    await sql.execute(
        "select meshhook.enqueue_many('emails', array_fill('{}'::jsonb, array[500]), "
        "key => 'tenant-7')"
    )
    view = await ready_job_queue(api)
    await view.until_replicas(2)

    async def is_told() -> bool:
        return bool((await view.status()).get("queue", {}).get("keptBackByKeyLimits") == 480)

    await eventually(is_told)
    assert await view.replicas() == 2


async def test_a_message_that_runs_keeps_its_worker(
    api: Api, database: str, sql: Connection, operator: OperatorProcess
):
    """One leased message for ten minutes, nothing ready: one worker stays (KEDA 1663, 356)."""
    view = await ready_job_queue(api, scaling=QUICK | {"minReplicas": 0})
    await send(sql, 1)
    await view.until_replicas(1)
    msg_id = await sql.fetchval("select msg_id from pgmq.read('emails', 600, 1)")
    await ticks(operator, 6)
    assert await view.replicas() == 1
    await sql.execute("select pgmq.delete('emails', $1::bigint)", msg_id)
    await view.until_replicas(0)


async def test_a_scheduled_message_wakes_ahead(api: Api, database: str, sql: Connection):
    """Workers are started before a scheduled message falls due."""
    view = await ready_job_queue(api, scaling=QUICK | {"minReplicas": 0})
    await view.until_replicas(0)
    for _ in range(3):
        await send(sql, 1, delay_seconds=12)
        await view.until_replicas(1)
        if await sql.fetchval("select count(*) from pgmq.q_emails where vt > now()"):
            return
        # A busy machine may have needed the ten seconds for itself.
        await sql.execute("select pgmq.purge_queue('emails')")
        await view.until_replicas(0)
    pytest.fail("the message was due before its worker was started, three times")


@pytest.mark.parametrize("moment", ["9999-01-01", "infinity"])
async def test_a_far_future_stops_nothing(api: Api, database: str, sql: Connection, moment: str):
    """A message scheduled for the end of time starts no worker, and others are served."""
    view = await ready_job_queue(api, scaling=QUICK | {"minReplicas": 0})
    await send(sql, 1)
    await sql.execute("update pgmq.q_emails set vt = $1::text::timestamptz", moment)
    await view.until_replicas(0)
    await send(sql, 30)
    await view.until_replicas(3)
    await view.until_condition("Ready", "True")


async def test_pending_pods_count(
    api: Api, database: str, sql: Connection, operator: OperatorProcess
):
    """While pods are pending, no further pods are asked for (KEDA 1323)."""
    view = await ready_job_queue(
        api, scaling={"maxReplicas": 50}, worker={"nodeSelector": {"no": "node"}}
    )
    await send(sql, 100)
    await view.until_replicas(10)
    await ticks(operator, 10)
    assert await view.replicas() == 10


async def test_two_on_one_deployment(api: Api, database: str, sql: Connection):
    """Of two JobQueues with one target, the younger one yields and names the other (KEDA 3755)."""
    await api.create(deployment("shared"))
    view = await ready_job_queue(api, worker=None, deploymentRef={"name": "shared"})
    second = job_queue("letters", worker=None, deploymentRef={"name": "shared"})
    second["spec"]["scaling"]["minReplicas"] = 7
    await asyncio.sleep(1.1)  # ages are told apart by the second
    await api.create(second)
    other = JobQueueView(api, name="letters", deployment="shared")
    condition = await other.until_condition("Ready", "False", reason="Conflict")
    assert "emails" in condition["message"]
    assert await view.replicas() == 1
    await view.until_condition("Ready", "True")
    await api.delete("JobQueue", "emails")
    await other.until_replicas(7)


async def test_two_for_one_queue_by_two_urls(api: Api, database: str, sql: Connection):
    """Of two JobQueues for one queue the younger one yields, whatever their URLs are."""
    view = await ready_job_queue(api)
    await api.create(database_secret(f"{database}?application_name=other", "other-way"))
    second = job_queue("letters", queueName="emails", retry={"maxAttempts": 9})
    second["spec"]["database"] = {"secretRef": {"name": "other-way"}}
    await asyncio.sleep(1.1)  # ages are told apart by the second
    await api.create(second)
    other = JobQueueView(api, name="letters")
    condition = await other.until_condition("Ready", "False", reason="Conflict")
    assert "emails" in condition["message"]
    assert await api.find("Deployment", "letters-worker") is None
    config = "select max_retry_attempts from meshhook.queue_config where queue_name = 'emails'"
    assert await sql.fetchval(config) != 9
    await view.until_condition("Ready", "True")


async def test_beside_an_autoscaler(
    api: Api, database: str, sql: Connection, operator: OperatorProcess
):
    """With an HPA on the target nothing is written until the HPA is gone (KEDA 3755)."""
    await api.create(deployment("shared", replicas=2))
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "shared"}
    await api.create(
        {
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "hpa"},
            "spec": {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 2},
        }
    )
    await api.create(
        job_queue(worker=None, deploymentRef={"name": "shared"}, scaling={"minReplicas": 5})
    )
    view = JobQueueView(api, deployment="shared")
    condition = await view.until_condition("Ready", "False", reason="Conflict")
    assert "'hpa'" in condition["message"]
    await ticks(operator, 3)
    assert await view.replicas() == 2
    await api.delete("HorizontalPodAutoscaler", "hpa")
    await view.until_replicas(5)


async def test_a_rollout_does_not_distort(
    api: Api, database: str, sql: Connection, operator: OperatorProcess
):
    """Surge pods of a rollout do not change the decision (Kubernetes 84142)."""
    view = await ready_job_queue(api, scaling={"scaleDown": {"windowSeconds": 60}})
    await send(sql, 50)
    await view.until_replicas(5)
    await view.until_ready_replicas(5)
    await api.patch("JobQueue", "emails", {"spec": {"worker": {"image": "none:2"}}})

    async def rolled_out() -> bool:
        found = await api.get("Deployment", "emails-worker")
        status = found["status"]
        return bool(
            found["spec"]["template"]["spec"]["containers"][0]["image"] == "none:2"
            and status.get("updatedReplicas") == status.get("readyReplicas") == 5
            and status["replicas"] == 5
        )

    await eventually(rolled_out)
    await ticks(operator, 3)
    assert await view.replicas() == 5


async def test_replicas_set_by_others(api: Api, database: str, sql: Connection):
    """Replicas that a GitOps tool applies are reverted, and the tool is named (KEDA 5572)."""
    await api.create(deployment("shared", replicas=None))
    view = await ready_job_queue(
        api, worker=None, deploymentRef={"name": "shared"}, scaling={"minReplicas": 3}
    )
    await view.until_replicas(3)
    await api.apply(deployment("shared", replicas=1), manager="argocd", force=True)
    await view.until_replicas(3)

    async def is_named() -> bool:
        found = await view.condition("Ready")
        return "argocd" in found["message"] or any(
            "argocd" in event["note"] for event in await view.events()
        )

    await eventually(is_named)


async def test_idle_pods_go_first(api: Api, database: str, sql: Connection):
    """Of four pods, the one that runs a job stays when three are removed."""
    view = await ready_job_queue(api, scaling=QUICK)
    await send(sql, 40)
    await view.until_replicas(4)
    await view.until_ready_replicas(4)
    pods = await api.list("Pod", labelSelector="meshhook.io/jobqueue=emails")
    names = [pod["metadata"]["name"] for pod in pods]
    busy = names[0]
    for name in names:
        await sql.execute(
            "insert into meshhook.workers (queue, worker, host, concurrency, running, processed,"
            " busy_seconds, seen_at) values ('emails', $1, $1, 10, $2, 0, 0,"
            " now() + interval '10 minutes')",
            name,
            int(name == busy),
        )
    await sql.execute("select pgmq.purge_queue('emails')")
    await send(sql, 1)
    await sql.execute("select pgmq.read('emails', 600, 1)")
    await sql.execute(OBEY)
    await view.until_replicas(1)

    async def one_is_left() -> list[str]:
        left = [
            pod["metadata"]["name"]
            for pod in await api.list("Pod", labelSelector="meshhook.io/jobqueue=emails")
            if "deletionTimestamp" not in pod["metadata"]
        ]
        assert len(left) == 1, left
        return left

    assert await eventually(one_is_left) == [busy]


async def test_pods_with_long_jobs_stay(
    api: Api, database: str, sql: Connection, operator: OperatorProcess
):
    """Of four pods, two run jobs of unknown length: both stay, and one goes when its job ends.

    One replica would have slots enough for both jobs.
    """
    view = await ready_job_queue(api, scaling=QUICK)
    await send(sql, 40)
    await view.until_replicas(4)
    await view.until_ready_replicas(4)
    pods = await api.list("Pod", labelSelector="meshhook.io/jobqueue=emails")
    names = sorted(pod["metadata"]["name"] for pod in pods)
    busy = names[1:3]
    for name in names:
        await sql.execute(
            "insert into meshhook.workers (queue, worker, host, concurrency, running, processed,"
            " busy_seconds, seen_at) values ('emails', $1, $1, 10, $2, 0, 0,"
            " now() + interval '10 minutes')",
            name,
            int(name in busy),
        )
    await sql.execute("select pgmq.purge_queue('emails')")
    await send(sql, 2)
    await sql.execute("select pgmq.read('emails', 600, 2)")
    await sql.execute(OBEY)

    async def left() -> list[str]:
        return sorted(
            pod["metadata"]["name"]
            for pod in await api.list("Pod", labelSelector="meshhook.io/jobqueue=emails")
            if "deletionTimestamp" not in pod["metadata"]
        )

    async def are_left(expected: list[str]) -> bool:
        assert await left() == expected
        return True

    await eventually(lambda: are_left(busy))
    await ticks(operator, 5)
    assert await left() == busy
    # A cordon runs out, and is renewed with a tick.
    obeyed = "select host from meshhook.workers where cordoned and running = 1"
    ended = await eventually(lambda: sql.fetchval(obeyed))
    await sql.execute("update meshhook.workers set running = 0 where host = $1", ended)
    busy.remove(ended)
    await eventually(lambda: are_left(busy))


async def test_a_paused_queue_is_not_scaled(
    api: Api, database: str, sql: Connection, operator: OperatorProcess
):
    """While the queue is paused the number of workers does not change; afterwards it does."""
    view = await ready_job_queue(api, scaling=QUICK)
    await sql.execute("update meshhook.queue_config set paused = true")
    await view.until_condition("Paused", "True")
    await send(sql, 50)
    await ticks(operator, 3)
    assert await view.replicas() == 1
    await sql.execute("update meshhook.queue_config set paused = false")
    await view.until_replicas(5)


async def test_nothing_is_written_while_nothing_changes(
    api: Api, database: str, sql: Connection, operator: OperatorProcess
):
    """Ten ticks of unchanged queues write no status (KEDA 7998, 6955)."""
    for name in ("emails", "letters", "pages"):
        await api.create(job_queue(name))
    views = [
        JobQueueView(api, name=name, deployment=f"{name}-worker")
        for name in ("emails", "letters", "pages")
    ]
    for view in views:
        await view.until_condition("Active", "True")

    async def versions() -> list[str]:
        found = await api.list("JobQueue")
        return [each["metadata"]["resourceVersion"] for each in found]

    async def is_quiet() -> bool:
        before = await versions()
        await ticks(operator, 10)
        return await versions() == before

    # At first there is something to write, and again if a tick of a busy machine takes too long.
    await eventually(is_quiet, timeout=200)


async def test_series_come_and_go(
    api: Api, database: str, sql: Connection, operator: OperatorProcess
):
    """A JobQueue's metrics appear with its first decision, and are removed with it."""
    view = await ready_job_queue(api)
    labels = {"queue": "emails", "jobqueue": f"{api.namespace}/emails"}
    await eventually(lambda: operator.metric("meshhook_scaler_desired_replicas", **labels) == 1)
    await eventually(lambda: operator.metric("meshhook_scaler_ready", **labels) == 1)
    down = "meshhook_scaler_events_total"
    await eventually(lambda: operator.metric(down, direction="down", **labels) == 0)
    await api.delete("JobQueue", view.name)
    await eventually(lambda: operator.metric("meshhook_scaler_desired_replicas", **labels) is None)


async def test_a_schedule_wakes_a_queue_ahead_of_its_due_time(
    api: Api, database: str, sql: Connection, operator: OperatorProcess
):
    """Without a message, a worker starts, and stays until the schedule is fired or paused."""
    view = await ready_job_queue(api, scaling=QUICK | {"minReplicas": 0})
    await view.until_replicas(0)
    await add_schedule(sql, "emails", "nightly", "0 0 1 1 *")
    await make_due(sql, "nightly", -timedelta(hours=1), queue="emails")
    await ticks(operator, 3)
    assert await view.replicas() == 0
    await make_due(sql, "nightly", -timedelta(seconds=9), queue="emails")
    await view.until_replicas(1)
    await ticks(operator, 4)
    await make_due(sql, "nightly", timedelta(minutes=1), queue="emails")
    await ticks(operator, 4)
    assert await view.replicas() == 1
    assert await sql.fetchval("select count(*) from pgmq.q_emails") == 0
    await pause_schedule(sql, "emails", "nightly")
    await view.until_replicas(0)
