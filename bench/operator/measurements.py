"""The measurements: start, steady state, restart, wake, surge."""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from typing import TYPE_CHECKING, Any

from support.cluster.operator_process import metric_value
from support.waiting import eventually

if TYPE_CHECKING:
    from bench.operator.stage import Stage
    from support.cluster.api import Object

SAMPLE_SECONDS = 5.0
LONG_SECONDS = 900.0
TICK = "meshhook_operator_tick_duration_seconds"


async def measure_start(stage: Stage, names: list[str], *, pods: int) -> dict[str, Any]:
    """Make all JobQueues, with as many workers as make `pods` together, and wait for the pods."""
    each = pods // len(names)
    started = time.monotonic()
    await stage.make_job_queues(names, scaling={"minReplicas": each, "maxReplicas": each + 4})
    created = time.monotonic()
    await _until_all_ready(stage, len(names))
    ready = time.monotonic()
    await _until_pods_ready(stage, each * len(names))
    return {
        "created_seconds": created - started,
        "ready_seconds": ready - started,
        "pods_ready_seconds": time.monotonic() - started,
    }


async def measure_steady(stage: Stage, *, seconds: float) -> dict[str, Any]:
    """Watch for a while in which nothing changes."""
    await _until_quiet(stage)
    process = stage.process
    versions = await _versions(stage)
    before, cpu_before = stage.operator.metrics(), process.cpu_times()
    await stage.sql.execute("select pg_stat_statements_reset()")
    requests_before = await _operator_requests(stage)
    memory: list[int] = []
    connections: list[int] = []
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        await asyncio.sleep(SAMPLE_SECONDS)
        memory.append(process.memory_info().rss)
        connections.append(
            await stage.sql.fetchval(
                "select count(*) from pg_stat_activity where backend_type = 'client backend'"
                " and application_name <> 'bench'"
            )
        )
    elapsed = time.monotonic() - started
    after, cpu = stage.operator.metrics(), process.cpu_times()
    requests = await _operator_requests(stage)
    ticks = _delta(before, after, f"{TICK}_count")
    written = await _versions(stage)
    return {
        "seconds": elapsed,
        "ticks": ticks,
        "tick_mean_seconds": _delta(before, after, f"{TICK}_sum") / ticks,
        "tick_buckets": _buckets(before, after),
        "statements": await _statements(stage),
        "connections_max": max(connections),
        "jobqueue_writes": sum(written[name] != version for name, version in versions.items()),
        "api_requests": {
            key: count - requests_before.get(key, 0)
            for key, count in requests.items()
            if count > requests_before.get(key, 0)
        },
        "memory_bytes": memory,
        "cpu_share": (cpu.user + cpu.system - cpu_before.user - cpu_before.system) / elapsed,
    }


async def measure_restart(stage: Stage, count: int) -> dict[str, Any]:
    """Kill the operator and start it again, until it has looked at each queue."""
    stage.operator.kill()
    versions = await _versions(stage)
    started = time.monotonic()
    await stage.operator.start()
    serving = time.monotonic()

    def has_looked_at_all() -> bool:
        text = stage.operator.metrics()
        return len(re.findall(r"^meshhook_scaler_ready{.*} 1\.0$", text, re.MULTILINE)) >= count

    await eventually(has_looked_at_all, LONG_SECONDS)
    looked = time.monotonic()
    await _until_quiet(stage)
    written = await _versions(stage)
    return {
        "serving_seconds": serving - started,
        "all_looked_at_seconds": looked - started,
        "jobqueue_writes": sum(written[name] != version for name, version in versions.items()),
    }


async def measure_wakes(stage: Stage, *, count: int, asleep_seconds: float) -> dict[str, Any]:
    """Send a message to a queue at zero, again and again.

    Args:
        stage: where.
        count: how often.
        asleep_seconds: for how long the queue has been at zero, at least; just after it came to
            zero the operator does not listen yet, and looks again within a second.
    """
    name = f"sleeper-{round(asleep_seconds)}"  # none finds what another left
    scaling = {"minReplicas": 0, "maxReplicas": 5, "cooldownSeconds": 0}
    await stage.make_job_queues([name], scaling=scaling | {"scaleDown": {"windowSeconds": 1}})
    pods = _PodWatch(stage, name)
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(pods.follow())
        object_seconds: list[float] = []
        ready_seconds: list[float] = []
        for _ in range(count):
            await eventually(lambda: _sleeps(stage, name), LONG_SECONDS)
            await asyncio.sleep(asleep_seconds)
            seen = pods.expect()
            await stage.sql.execute("select pgmq.send($1, '{}')", name)
            sent = time.monotonic()
            object_seconds.append(await seen.created - sent)
            ready_seconds.append(await seen.ready - sent)
            await stage.sql.execute("select pgmq.purge_queue($1)", name)
        watching.cancel()
    await stage.api.delete("JobQueue", name)
    return {"pod_object_seconds": object_seconds, "pod_ready_seconds": ready_seconds}


async def measure_surge(stage: Stage, names: list[str], *, pods: int) -> dict[str, Any]:
    """Send every queue more than its workers can do in time, and wait until all have grown."""
    each = pods // len(names)
    started = time.monotonic()
    for name in names:
        await stage.sql.execute(
            "select pgmq.send_batch($1, array_fill('{}'::jsonb, array[$2::int]))",
            name,
            (each + 1) * 10,
        )
    sent = time.monotonic()

    async def all_have_grown() -> bool:
        found = await stage.api.list("Deployment")
        grown = [item for item in found if item["spec"]["replicas"] > each]
        await asyncio.sleep(0.5)
        return len(grown) >= len(names)

    await eventually(all_have_grown, LONG_SECONDS)
    return {"sent_seconds": sent - started, "all_scaled_seconds": time.monotonic() - sent}


class _Seen:
    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.created: asyncio.Future[float] = loop.create_future()
        self.ready: asyncio.Future[float] = loop.create_future()


class _PodWatch:
    """Notes when the next pod of a JobQueue is there, and when it is Ready."""

    def __init__(self, stage: Stage, name: str) -> None:
        self._stage = stage
        self._name = name
        self._next: _Seen | None = None

    def expect(self) -> _Seen:
        """Return what will be known of the next pod."""
        self._next = _Seen()
        return self._next

    async def follow(self) -> None:
        """Watch until cancelled."""
        async for event, pod in self._stage.api.watch("Pod"):
            labels = pod["metadata"].get("labels", {})
            seen = self._next
            if labels.get("meshhook.io/jobqueue") != self._name or seen is None:
                continue
            now = time.monotonic()
            if event == "ADDED" and not seen.created.done():
                seen.created.set_result(now)
            elif seen.created.done() and not seen.ready.done() and _is_ready(pod):
                seen.ready.set_result(now)


async def _sleeps(stage: Stage, name: str) -> bool:
    """Whether a queue has no pods, and its next message wakes it."""
    pods = await stage.api.list("Pod", labelSelector=f"meshhook.io/jobqueue={name}")
    found = await stage.api.find("Deployment", f"{name}-worker")
    if pods or found is None or found["spec"]["replicas"]:
        return False
    until_ms = await stage.sql.fetchval(f'select last_value from meshhook."waiting_{name}"')
    return bool(until_ms > time.time() * 1000)


def _is_ready(pod: Object) -> bool:
    return any(
        each["type"] == "Ready" and each["status"] == "True"
        for each in pod.get("status", {}).get("conditions", [])
    )


async def _until_all_ready(stage: Stage, count: int) -> None:
    async def holds() -> bool:
        found = await stage.api.list("JobQueue")
        ready = [
            item
            for item in found
            for each in item.get("status", {}).get("conditions", [])
            if each["type"] == "Ready" and each["status"] == "True"
        ]
        await asyncio.sleep(0.5)
        return len(ready) >= count

    await eventually(holds, LONG_SECONDS)


async def _until_pods_ready(stage: Stage, count: int) -> None:
    async def holds() -> bool:
        found = await stage.api.list("Deployment")
        ready: int = sum(item.get("status", {}).get("readyReplicas", 0) for item in found)
        await asyncio.sleep(0.5)
        return ready >= count

    await eventually(holds, LONG_SECONDS)


async def _until_quiet(stage: Stage) -> None:
    """Wait until no JobQueue is written for half a minute."""

    async def holds() -> bool:
        before = await _versions(stage)
        await asyncio.sleep(35)
        return await _versions(stage) == before

    await eventually(holds, LONG_SECONDS)


async def _versions(stage: Stage) -> dict[str, str]:
    found = await stage.api.list("JobQueue")
    return {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in found}


async def _statements(stage: Stage) -> list[dict[str, Any]]:
    """Return the statements since the reset, the most frequent first."""
    rows = await stage.sql.fetch(
        "select query, sum(calls)::bigint as calls, sum(total_exec_time) / sum(calls) as mean_ms"
        " from pg_stat_statements where toplevel and query not like '%pg_stat_%'"
        " group by query order by calls desc limit 12"
    )
    return [
        {
            "calls": row["calls"],
            "mean_ms": row["mean_ms"],
            "query": " ".join(row["query"].split())[:160],
        }
        for row in rows
    ]


async def _operator_requests(stage: Stage) -> dict[str, float]:
    """Return the writes that the API server has answered, by verb and resource.

    It does not tell its callers apart; the controllers write none of these at rest.
    """
    async with stage.api._session.get("/metrics") as response:  # noqa: SLF001 - text, not an object
        text = await response.text()
    found: dict[str, float] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"apiserver_request_total{(.*)} (\S+)", line)
        if match is None:
            continue
        labels = dict(re.findall(r'(\w+)="([^"]*)"', match[1]))
        if labels["resource"] in {"jobqueues", "deployments", "secrets", "pods", "events"}:
            resource = labels["resource"]
            if labels["subresource"]:
                resource += f"/{labels['subresource']}"
            key = f"{labels['verb']} {resource}"
            found[key] = found.get(key, 0) + float(match[2])
    return found


def _delta(before: str, after: str, name: str, **labels: str) -> float:
    return (metric_value(after, name, **labels) or 0) - (metric_value(before, name, **labels) or 0)


def _buckets(before: str, after: str) -> dict[str, float]:
    bounds = re.findall(rf'^{TICK}_bucket{{.*le="([^"]+)"}}', after, re.MULTILINE)
    return {bound: _delta(before, after, f"{TICK}_bucket", le=bound) for bound in bounds}


def quantile_bound(buckets: dict[str, float], share: float) -> str:
    """Return the upper bound of the bucket that holds a quantile."""
    total = buckets["+Inf"]
    return next(bound for bound, count in buckets.items() if count >= share * total)


def percentile(values: list[float], percent: int) -> float:
    """Return a percentile."""
    if len(values) < 2:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
