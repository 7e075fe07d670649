"""Databases that cannot be reached, of every kind, do not keep a good one waiting."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
from collections.abc import Iterator
from typing import Any, cast
from unittest.mock import Mock

import pytest
from prometheus_client import CollectorRegistry

from meshhook.administration import create_queue
from meshhook.postgres.database import Database
from meshhook.schema import Migration
from meshhook_operator.api.jobqueue import JobQueue
from meshhook_operator.databases import database
from meshhook_operator.databases.name_lookups import MAX_AT_ONCE
from meshhook_operator.operator import Operator
from support.black_hole import BlackHole, black_hole
from support.jobqueues import jobqueue_body
from support.recorded_cluster import RecordedCluster
from support.waiting import eventually

OF_EACH_KIND = 20


def make(name: str, **spec: Any) -> JobQueue:
    """Return a JobQueue that has its database in the Secret of its name."""
    database = {"secretRef": {"name": name}}
    body = jobqueue_body(name, database=database, queueName="jobs", **spec)
    body["metadata"] |= {"namespace": "shop", "uid": name}
    return JobQueue.from_body(body)


@pytest.fixture
def hole() -> Iterator[BlackHole]:
    """An address that never answers."""
    with black_hole() as found:
        yield found


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The names whose lookups hang, which is all that end in `.hangs`."""
    real, may_end, hanging = socket.getaddrinfo, threading.Event(), set[str]()

    def look_up(host: str, *arguments: Any, **options: Any) -> Any:
        if host.endswith(".hangs") and not options.get("flags", 0) & socket.AI_NUMERICHOST:
            hanging.add(host)
            may_end.wait(120)
            raise socket.gaierror
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield hanging
    may_end.set()


async def test_a_good_database_is_read_while_others_are_waited_for(
    database_url, pool, hole, hanging, monkeypatch
):
    """It is read and reported before the others are given up, and none of them costs a hash."""
    monkeypatch.setattr(database, "FIRST_TICK_TIMEOUT_SECONDS", 110.0)
    await create_queue(Database(pool), "jobs")
    cluster = RecordedCluster()
    hashed = Mock(wraps=hashlib.scrypt)
    monkeypatch.setattr(hashlib, "scrypt", hashed)
    read = Mock(wraps=Migration.from_text)
    monkeypatch.setattr(Migration, "from_text", read)
    kinds = [
        "postgresql://u:p@127.0.0.1:1/app-{}",
        f"postgresql://u:p@127.0.0.1:{hole.port}/app-{{}}?connect_timeout=110",
        "postgresql://u:p@db-{}.hangs/app",
    ]
    bad = [make(f"bad-{index}") for index in range(OF_EACH_KIND * len(kinds))]
    for index, each in enumerate(bad):
        url = kinds[index % len(kinds)].format(index)
        cluster.secrets[each.key] = {"uri": url.encode()}
    good = make("good", paused=True)
    cluster.secrets[good.key] = {"uri": database_url.encode()}
    assert len(hanging) < OF_EACH_KIND < MAX_AT_ONCE
    operator = Operator(
        cluster=cast("Any", cluster), registry=CollectorRegistry(), namespaces=["*"]
    )
    task = asyncio.create_task(operator.run(), name="operator")
    for each in bad:
        operator.on_jobqueue_changed(each)
    await eventually(lambda: len(hanging) == OF_EACH_KIND)
    await eventually(lambda: hole.attempts() >= OF_EACH_KIND)
    operator.on_jobqueue_changed(good)
    await eventually(
        lambda: (cluster.condition(good.key) or {}).get("reason") == "Operating", timeout=100
    )
    assert not hashed.called, "none of them has workers"
    assert not read.called, "all migrations are read with each attempt to connect"
    reported = {key.name for key in cluster.statuses if cluster.condition(key)}
    slow = {each.key.name for index, each in enumerate(bad) if index % len(kinds)}
    assert not reported & slow, "these are still waited for"
    task.cancel()
    await asyncio.wait([task])
