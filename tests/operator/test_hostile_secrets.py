"""Whatever a Secret holds, its JobQueue says what is wrong, and no part of a password is shown."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from meshhook_operator.api.jobqueue import JobQueue, ObjectKey
from meshhook_operator.operator import Operator
from support.jobqueues import jobqueue_body
from support.recorded_cluster import RecordedCluster
from support.waiting import eventually

MARK = "marKed"
"""Stands in every password; no part of it is in any other text."""

NOWHERE = "127.0.0.1:1"

ODD_URLS = [
    b"",
    b" \n\t ",
    b"\x00",
    b"\xff\xfe\x00p\x00o",
    b"postgresql://",
    b"postgresql://u:marKed@",
    b"postgresql://u:marKed@:0/app",
    b"postgresql://u:marKed@127.0.0.1:99999/app",
    b"postgresql://u:marKed@127.0.0.1:marKed/app",
    b"postgresql://u:mar/marKed@127.0.0.1:1/app",
    b"postgresql://u:x@marKed@127.0.0.1:1/app",
    b"postgresql://u:marKed#marKed@127.0.0.1:1/app",
    b"postgresql://u:marKed?marKed@127.0.0.1:1/app",
    b"postgresql://u:[marKed@127.0.0.1:1/app",
    b"postgresql://u:marKed@[::1/app",
    b"postgresql://u:marKed%@127.0.0.1:1/app",
    b"postgresql://u:marKed%00@127.0.0.1:1/app",
    b"postgresql://u:marKed\nmarKed@127.0.0.1:1/app",
    "postgresql://u:marKed\u202e@127.0.0.1:1/app".encode(),
    "postgresql://u:marKed@h\u00f6st\u2024.invalid/app".encode(),
    b"postgresql://u:marKed@" + b"h" * 300 + b"/app",
    b"postgresql://u:marKed@a..b/app",
    b"postgresql://u:marKed@127.0.0.1:1/app?sslmode=marKed",
    b"postgresql://u:marKed@127.0.0.1:1/app?connect_timeout=marKed",
    b"postgresql://u@127.0.0.1:1/app?password=marKed&sslrootcert=/dev/zero&sslmode=verify-ca",
    b"postgresql://u@127.0.0.1:1/app?password=marKed&sslrootcert=/marKed&sslmode=verify-ca",
    b"postgresql://u@127.0.0.1:1/app?password=marKed&sslcert=/proc/self/status",
    b"postgresql://u:marKed@127.0.0.1:1/app?service=x&servicefile=/dev/zero",
    b"postgresql://u@127.0.0.1:1/app?passfile=/dev/zero",
    b"postgresql://u:marKed@127.0.0.1:1/app?application_name=%00",
    b"mysql://u:marKed@127.0.0.1:1/app",
    b"marKed://u:marKed@127.0.0.1:1/app",
    b"u:marKed@127.0.0.1:1/app",
    b"host=127.0.0.1 password=marKed",
    b"{{ .Values.marKed }}",
    b"postgresql://u:" + b"marKed" * 170_000 + b"@127.0.0.1:1/app",
    b"postgresql://u:marKed@" + b",".join([b"127.0.0.1:1"] * 80_000) + b"/app",
    b"postgresql://u:marKed@127.0.0.1:1,127.0.0.1:1/app?target_session_attrs=marKed",
    b"postgresql://u:marKed@@@@/////????####",
    b"jdbc:postgresql://127.0.0.1:1/app?user=u&password=marKed",
]


@asynccontextmanager
async def running(cluster: RecordedCluster) -> AsyncIterator[Operator]:
    """A running operator on that cluster."""
    operator = Operator(
        cluster=cast("Any", cluster), registry=CollectorRegistry(), namespaces=["shop"]
    )
    task = asyncio.create_task(operator.run(), name="operator")
    try:
        yield operator
    finally:
        task.cancel()
        await asyncio.wait([task])


def make(name: str, **spec: Any) -> JobQueue:
    """Return a JobQueue that has its database in the Secret of its name."""
    body = jobqueue_body(name, database={"secretRef": {"name": name}}, queueName=name, **spec)
    body["metadata"]["uid"] = name
    return JobQueue.from_body(body)


def check_texts(cluster: RecordedCluster, shown: str) -> None:
    """Check that nothing that was written or logged has a part of the password in it."""
    for text in (repr(cluster.statuses), repr(cluster.events), shown):
        found = re.search(f".{{0,200}}{MARK[:4]}.{{0,100}}", text, re.IGNORECASE | re.DOTALL)
        assert found is None, found[0]


async def test_every_odd_url_has_its_status(capsys, caplog):
    """Each has a reason that names its own fault, and the ticks of other queues go on."""
    cluster = RecordedCluster()
    queues = [make(f"odd-{index}") for index in range(len(ODD_URLS))]
    for queue, value in zip(queues, ODD_URLS, strict=True):
        cluster.secrets[queue.key] = {"uri": value}
    queues.append(make("no-key"))
    cluster.secrets[ObjectKey("shop", "no-key")] = {
        f"key-{index}": b"marKed" for index in range(5_000)
    }
    queues.append(make("no-secret"))
    async with running(cluster) as operator:
        for queue in queues:
            operator.on_jobqueue_changed(queue)
        for queue in queues:
            condition = await eventually(
                partial(cluster.condition, queue.key), timeout=60, message=str(queue.key)
            )
            assert condition["status"] == "False"
            assert condition["reason"] in {
                "AnswerRefused",
                "DatabaseRefused",
                "InvalidDatabaseUrl",
                "SecretKeyMissing",
                "SecretNotFound",
                "SourceUnavailable",
            }, (queue.key, condition)
            assert 10 < len(condition["message"]) <= 500
            assert condition["message"].isprintable()
    out, err = capsys.readouterr()
    check_texts(cluster, out + err + caplog.text)


@st.composite
def urls(draw: st.DrawFn) -> bytes:
    """What is nearly a URL, with a marked password; or bytes."""
    odd = st.text("/?#@:[]%&= \\\0\n\u202eé,", max_size=3)
    password = draw(odd) + MARK + draw(odd)
    host = draw(st.sampled_from([NOWHERE, "[::1]:1", "", "a b", "x" * 70 + ":1", "%2Ftmp", "é"]))
    tail = draw(st.sampled_from(["/app", "", "/?", "/app?sslmode=", "/app?host=%00", "/a?b"]))
    scheme = draw(st.sampled_from(["postgresql://", "postgres://", "POSTGRES://", "", "pg:"]))
    text = f"{scheme}{draw(odd)}u:{password}@{host}{tail}{draw(odd)}"
    return draw(st.one_of(st.just(text.encode()), st.binary(max_size=40)))


_names = itertools.count()


@pytest.fixture
def loop_of_its_own() -> Iterator[asyncio.Runner]:
    """An event loop for all examples."""
    with asyncio.Runner() as runner:
        yield runner


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(urls(), min_size=5, max_size=20))
def test_any_bytes_have_their_status(loop_of_its_own, capsys, caplog, values):
    """Any bytes under the key lead to a condition."""
    cluster = RecordedCluster()

    async def run() -> None:
        async with running(cluster) as operator:
            queues = [make(f"q{next(_names)}") for _ in values]
            for queue, value in zip(queues, values, strict=True):
                cluster.secrets[queue.key] = {"uri": value}
                operator.on_jobqueue_changed(queue)
            for queue in queues:
                await eventually(partial(cluster.condition, queue.key), message=str(queue.key))

    loop_of_its_own.run(run())
    out, err = capsys.readouterr()
    check_texts(cluster, out + err + caplog.text)
    caplog.clear()
