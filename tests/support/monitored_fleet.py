"""Workers, a producer, the exporter and a Prometheus: real processes, in various kinds of trouble.

Kubernetes is missing; for the operator see `support.stand_in_operator`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import yaml
from prometheus_client import CollectorRegistry

from meshhook import MonitoringServer, set_queue_config
from meshhook.postgres.database import Database
from support.monitored_producer import Flow, plan
from support.prometheus_server import PrometheusServer
from support.rule_files import GRAFANA
from support.stand_in_operator import StandInOperator
from support.waiting import eventually
from support.workers import TESTS

QUEUES = ("orders", "mails", "reports", "imports")
HANDLER = "support.monitored_handlers:handle"
_SERVED = "metrics and health are served"


@dataclass
class MonitoredFleet:
    """What runs, and the Prometheus that watches it."""

    url: str
    folder: Path
    prometheus: PrometheusServer
    connection: asyncpg.Connection[Any]
    started_at: float = field(default_factory=time.time)
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    scaled: dict[str, int] = field(default_factory=dict)
    """The queues whose workers the stand-in starts and stops, with their concurrency. Without any,
    it looks at all queues and scales none."""
    _hired: dict[str, list[str]] = field(default_factory=dict)
    _number: int = 0

    async def start_worker(self, name: str, queue: str, concurrency: int) -> None:
        """Start a worker as a process of its own, and watch it."""
        arguments = ["worker", queue, "--handler", HANDLER, "--name", name]
        arguments += ["--concurrency", str(concurrency), "--grace-seconds", "5"]
        await self._start(name, "shop", [*arguments, "--metrics-port", "0"])

    async def start_exporter(self) -> None:
        """Start `meshhook exporter`, and watch it."""
        arguments = ["exporter", "--metrics-port", "0", "--interval-seconds", "1"]
        await self._start("meshhook-exporter", "meshhook", arguments)

    async def start_producer(self, flows: list[Flow]) -> None:
        """Start a producer that sends by a plan, and watch it."""
        await self._start("producer", "shop", [], module="support.monitored_producer")
        stdin = self.processes["producer"].stdin
        assert stdin is not None
        stdin.write(plan(flows))
        stdin.close()

    def kill(self, name: str) -> None:
        """End a process as the kernel does when memory runs out."""
        self.processes[name].kill()

    def stop(self, name: str) -> None:
        """Ask a process to end."""
        self.processes[name].send_signal(signal.SIGTERM)

    def hire(self, queue: str, count: int) -> list[str]:
        """Stop workers of a queue that are too many, and return the names of those to start."""
        hired = self._hired.setdefault(queue, [])
        while len(hired) > count and all(name in self.processes for name in hired):
            self.stop(hired.pop())
        missing = range(count - len(hired))
        new = [f"{queue}-{self._number + ahead + 1}" for ahead in missing]
        self._number += len(new)
        hired += new
        return new

    async def snapshot(self) -> dict[str, asyncpg.Record]:
        """Return the queues as they are now, by name."""
        rows = await self.connection.fetch("select * from meshhook.queue_monitoring")
        return {row["queue"]: row for row in rows}

    async def is_drained(self) -> bool:
        """Whether no queue that is worked on has a message left."""
        rows = await self.snapshot()
        return not any(
            rows[queue][state]
            for queue in QUEUES
            if not rows[queue]["paused"]
            for state in ("ready", "scheduled", "running", "retrying", "lost")
        )

    async def close(self) -> None:
        """End all processes."""
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _start(
        self, name: str, namespace: str, arguments: list[str], *, module: str = "meshhook"
    ) -> None:
        log = self.folder / f"{name}.log"
        environment = os.environ | {
            "MESHHOOK_DATABASE_URL": self.url,
            "MESHHOOK_LOG_FORMAT": "json",
            "PYTHONPATH": str(TESTS),
        }
        if arguments:
            arguments = [*arguments, "--metrics-address", "127.0.0.1"]
        with log.open("wb") as stream:
            process = self.processes[name] = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, *arguments),
                env=environment,
                stdin=asyncio.subprocess.PIPE,
                stderr=stream,
            )
        # One that is stopped while it starts ends without.
        await eventually(
            lambda: _port(log) or process.returncode in (0, -signal.SIGTERM),
            120,
            message=f"{name} serves its metrics",
        )
        port = _port(log)
        if port is not None:
            self.prometheus.add_target(port, namespace=namespace, pod=name)


def _port(log: Path) -> int | None:
    for line in log.read_text().splitlines():
        with suppress(json.JSONDecodeError):
            record = json.loads(line)
            if record.get("event") == _SERVED:
                return int(record["port"])
    return None


def hasty_rules(folder: Path) -> list[Path]:
    """Return copies of all rule files whose alerts do not wait before they fire."""
    copies = []
    for file in sorted((GRAFANA / "alerts").glob("*.yaml")):
        content = yaml.load(file.read_text(), Loader=yaml.CSafeLoader)
        for group in content["groups"]:
            for rule in group["rules"]:
                rule.pop("for", None)
        copies.append(folder / file.name)
        copies[-1].write_text(yaml.safe_dump(content))
    return copies


@asynccontextmanager
async def monitored_fleet(
    url: str, folder: Path, *, rules: list[Path], interval_seconds: int = 1
) -> AsyncIterator[MonitoredFleet]:
    """Run the exporter, the stand-in operator and Prometheus on a migrated database.

    It has four queues: `orders`, which is keyed, `mails` with priorities, `reports` with short
    leases, and `imports`, paused.
    """
    async with AsyncExitStack() as stack:
        connection = await asyncpg.connect(url)
        stack.push_async_callback(connection.close)
        for queue in QUEUES:
            await connection.execute("select meshhook.create_queue($1)", queue)
        await connection.execute(
            "update meshhook.queue_config set max_retry_attempts = 3, retry_backoff_base_ms = 500"
        )
        await set_queue_config(connection, "orders", keyed=True)
        await set_queue_config(connection, "mails", prioritized=True)
        await connection.execute(
            "update meshhook.queue_config set visibility_timeout_seconds = 3"
            " where queue_name = 'reports'"
        )
        await connection.execute(
            "update meshhook.queue_config set paused = true where queue_name = 'imports'"
        )
        await connection.execute(
            "select pgmq.send('imports', '{}'::jsonb) from generate_series(1, 25)"
        )
        prometheus = await stack.enter_async_context(
            PrometheusServer(folder, rules, interval_seconds)
        )
        fleet = MonitoredFleet(url, folder, prometheus, connection)
        stack.push_async_callback(fleet.close)
        registry = CollectorRegistry()
        server = stack.enter_context(MonitoringServer(0, address="127.0.0.1", registry=registry))
        prometheus.add_target(server.port, namespace="meshhook", pod="stand-in-operator")
        await fleet.start_exporter()
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(_operate(fleet, registry), name="stand-in-operator")
            try:
                yield fleet
            finally:
                watching.cancel()


async def _operate(fleet: MonitoredFleet, registry: CollectorRegistry) -> None:
    """Let the stand-in look at the queues once a second, and start and stop workers as it says."""
    database = await Database.connect(fleet.url, max_size=1)
    operator = StandInOperator(database, registry)
    try:
        async with asyncio.TaskGroup() as tasks:
            while True:
                desired = await operator.tick(fleet.scaled)
                for queue, concurrency in fleet.scaled.items():
                    for name in fleet.hire(queue, desired[queue]):
                        tasks.create_task(fleet.start_worker(name, queue, concurrency), name=name)
                await asyncio.sleep(1)
    finally:
        await database.close()
