"""The part of the benchmark that runs in the network of the node: it plays traces side by side.

`bench.node.run` starts it, and ends it at once where it is interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx2
import psutil
from lightkube import AsyncClient, KubeConfig
from lightkube.resources.core_v1 import Pod, Secret

from bench.node.measurements import figures
from bench.node.player import Player, TraceError
from bench.node.report import add_trace, read_report, write_raw, write_report
from bench.node.watch import LABEL, JobQueue, Watch
from bench.scaling.node_traces import node_traces
from meshhook import Database, MeshHookError
from support.e2e import RELEASE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bench.node.report import Report
    from bench.scaling.jobs import JobTrace

TRIES = 2
REQUEST_SECONDS = 20.0
PAUSE_SECONDS = 10.0
"""Between the starts of the first traces: their pods are not all to start at once."""
CONNECTIONS = 6
GONE_SECONDS = 60
FAILURES = (
    ExceptionGroup,
    TraceError,
    MeshHookError,
    OSError,
    httpx2.HTTPError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
)
NOTES = """
create schema if not exists bench;
create table if not exists bench.interruptions (
    run_id text not null, host text not null,
    started_at timestamptz not null, ended_at timestamptz not null);
grant usage on schema bench to public;
grant insert on bench.interruptions to public
"""


def say(text: str) -> None:
    """Tell people how it goes."""
    print(text, file=sys.stderr, flush=True)


async def run(options: argparse.Namespace) -> None:
    """Play the traces, as many at a time as there are lanes."""
    wanted = [trace for trace in node_traces() if trace.name in options.trace]
    traces = [trace.until(options.seconds) for trace in wanted]
    report = read_report(options.json)
    roots = [psutil.Process(), psutil.Process(options.node_pid)]
    async with _connected(options.namespace) as (client, database, pool):
        await _delete_job_queues(client)
        watch = Watch(client, options.namespace)
        player = Player(
            client=client,
            watch=watch,
            database=database,
            pool=pool,
            image=options.image,
            roots=roots,
            say=say,
        )
        line: asyncio.Queue[tuple[JobTrace, int]] = asyncio.Queue()
        for trace in traces:
            line.put_nowait((trace, 1))
        async with asyncio.TaskGroup() as watching:
            following = watching.create_task(watch.follow())
            async with asyncio.TaskGroup() as lanes:
                for number in range(options.lanes):
                    lanes.create_task(_lane(number, line, player, report, options))
            following.cancel()


async def _lane(
    number: int,
    line: asyncio.Queue[tuple[JobTrace, int]],
    player: Player,
    report: Report,
    options: argparse.Namespace,
) -> None:
    """Play one trace after the other."""
    await asyncio.sleep(number * PAUSE_SECONDS)
    while not line.empty():
        trace, tries = line.get_nowait()
        say(f"{trace.name}: begins; {trace.about}")
        try:
            seen = await player.play(trace)
        except FAILURES as error:
            said = f"{type(error).__name__}: {_said(error)}"
            say(f"{trace.name}: {said}")
            report["failed"][trace.name] = said
            if tries < TRIES:
                line.put_nowait((trace, tries + 1))
        else:
            found = figures(trace, seen)
            add_trace(report, trace, found, seen)
            say(
                f"{trace.name}: {found.late_share:.2%} of {found.jobs} jobs late, "
                f"{found.lost} lost, at most {found.most_replicas} replicas, "
                f"idle {found.idle_share:.0%}, others used {found.load.others_percent:.0f}%"
            )
            if options.raw:
                write_raw(trace, seen, options.raw)
        write_report(report, options.json)


def _said(error: Exception) -> str:
    if isinstance(error, ExceptionGroup):
        return "; ".join(f"{type(each).__name__}: {each}" for each in error.exceptions)
    return str(error)


@asynccontextmanager
async def _connected(
    namespace: str,
) -> AsyncIterator[tuple[AsyncClient, Database, asyncpg.Pool[Any]]]:
    # Proxies of the machine lead out of it, and the node is in it.
    client = AsyncClient(
        KubeConfig.from_file(os.environ["KUBECONFIG"]),
        namespace=namespace,
        timeout=httpx2.Timeout(REQUEST_SECONDS),
        trust_env=False,
    )
    url = await _database_url(client)
    async with asyncpg.create_pool(
        url, min_size=1, max_size=CONNECTIONS, command_timeout=REQUEST_SECONDS
    ) as pool:
        await pool.execute(NOTES)
        database = await Database.connect(url)
        try:
            yield client, database, pool
        finally:
            await database.close()
            await client.close()


async def _delete_job_queues(client: AsyncClient) -> None:
    """Remove those that a program before this one has left, which ended early."""
    async for each in client.list(JobQueue):
        if each.metadata and each.metadata.name:
            await client.delete(JobQueue, each.metadata.name)
    workers: dict[str, Any] = {LABEL: None}
    for _ in range(GONE_SECONDS):
        if not [
            each async for each in client.list(Pod, namespace=client.namespace, labels=workers)
        ]:
            return
        await asyncio.sleep(1)


async def _database_url(client: AsyncClient) -> str:
    """Return the owner's URL of the chart's database, with the pod's address for its name."""
    secret = await client.get(Secret, f"{RELEASE}-database")
    url = urlsplit(base64.b64decode((secret.data or {})["uri"]).decode())
    component: dict[str, Any] = {"app.kubernetes.io/component": "database"}
    pods = [each async for each in client.list(Pod, namespace=client.namespace, labels=component)]
    address = pods[0].status.podIP if pods and pods[0].status else None
    if not address:
        raise TraceError("the database of the chart has no pod with an address")
    login = url.netloc.rpartition("@")[0]
    return urlunsplit(url._replace(netloc=f"{login}@{address}:{url.port or 5432}"))


def main() -> None:
    """Read the options, and play."""
    parser = argparse.ArgumentParser(prog="python -m bench.node.lanes", description=__doc__)
    parser.add_argument("--trace", action="append", required=True)
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--lanes", type=int, required=True)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--node-pid", type=int, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--raw", type=Path)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
