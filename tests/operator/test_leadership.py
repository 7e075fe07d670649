"""Leases: who takes one, when, and until when its holder may act."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from meshhook_operator.api.jobqueue import ObjectKey
from meshhook_operator.cluster.client import Cluster
from meshhook_operator.cluster.leases import LeaseRecord, Leases
from meshhook_operator.errors import (
    ClusterRefusedError,
    ClusterUnavailableError,
    NamespaceEndingError,
    NotLeadingError,
)
from meshhook_operator.leadership.election import Step, next_step
from meshhook_operator.leadership.held_lease import HeldLease, lease_clock
from meshhook_operator.leadership.leadership import (
    NAMESPACE_LEASE,
    NAMESPACE_TIMES,
    PROCESS_TIMES,
    Leadership,
)
from meshhook_operator.metrics import OperatorMetrics
from support.waiting import eventually

KEY = ObjectKey("shop", "operator")


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class StoredLeases:
    """The Leases of an API server, in memory."""

    def __init__(self) -> None:
        self.records: dict[ObjectKey, LeaseRecord] = {}
        self.problem: Exception | None = None
        """Raised by every request, before it does anything."""
        self.loses_answers = False
        """Whether writes are carried out, and not answered."""
        self.ending: set[str] = set()
        """The namespaces that are being deleted."""
        self.requests = 0
        self._versions = itertools.count(1)

    async def read(self, key: ObjectKey) -> LeaseRecord | None:
        """Return a Lease."""
        self._begin()
        return self.records.get(key)

    async def create(self, key: ObjectKey, holder: str, duration_seconds: float) -> LeaseRecord:
        """Create a Lease."""
        self._begin()
        if key.namespace in self.ending:
            raise NamespaceEndingError("ending", HTTPStatus.FORBIDDEN)
        if key in self.records:
            raise ClusterRefusedError("exists", HTTPStatus.CONFLICT)
        return self._store(key, holder, duration_seconds, 0)

    async def write(
        self, key: ObjectKey, last: LeaseRecord, holder: str, duration_seconds: float
    ) -> LeaseRecord:
        """Write a Lease if it is unchanged."""
        self._begin()
        found = self.records.get(key)
        if found is None:
            raise ClusterRefusedError("not found", HTTPStatus.NOT_FOUND)
        if found.version != last.version:
            raise ClusterRefusedError("changed", HTTPStatus.CONFLICT)
        return self._store(key, holder, duration_seconds, last.transitions)

    def _begin(self) -> None:
        self.requests += 1
        if self.problem is not None:
            raise self.problem

    def _store(
        self, key: ObjectKey, holder: str, duration_seconds: float, transitions: int
    ) -> LeaseRecord:
        self.records[key] = LeaseRecord(
            version=str(next(self._versions)),
            holder=holder,
            duration_seconds=duration_seconds,
            transitions=transitions,
        )
        if self.loses_answers:
            raise ClusterUnavailableError("no answer")
        return self.records[key]


@pytest.fixture
def clock() -> Clock:
    """The clock of every process of a test."""
    return Clock()


@pytest.fixture
def stored() -> StoredLeases:
    """What the API server has."""
    return StoredLeases()


def lease_of(stored: StoredLeases, clock: Clock, identity: str) -> HeldLease:
    """Return the Lease as one process sees it."""
    leases = cast("Leases", stored)
    return HeldLease(KEY, leases=leases, identity=identity, times=PROCESS_TIMES, clock=clock)


# --- The decision --------------------------------------------------------------------------------


@given(
    holder=st.sampled_from(["", "me", "other"]),
    duration=st.floats(1, 1_000),
    seen=st.floats(0, 2_000),
)
def test_only_a_free_lease_or_one_that_stands_still_is_taken(holder, duration, seen):
    """A Lease that somebody else holds is left alone until it has not changed for its duration."""
    record = LeaseRecord(version="1", holder=holder, duration_seconds=duration)
    step = next_step(record, identity="me", seen_seconds_ago=seen)
    if holder == "me":
        assert step is Step.RENEW
    else:
        assert step is (Step.TAKE if not holder or seen >= duration else Step.WAIT)
    assert next_step(None, identity="me", seen_seconds_ago=seen) is Step.CREATE


@pytest.mark.parametrize("times", [PROCESS_TIMES, NAMESPACE_TIMES])
def test_a_holder_has_several_tries_and_ends_before_others_begin(times):
    """The deadline leaves room for failed renewals, and for writes that are under way."""
    assert times.renew_seconds * 3 <= times.deadline_seconds
    assert times.deadline_seconds * 4 / 3 <= times.duration_seconds
    assert times.look_seconds <= 5


# --- One Lease -----------------------------------------------------------------------------------


async def test_the_first_one_holds_it_and_others_wait(stored, clock):
    """As long as it is renewed, nobody else gets it."""
    blue, green = lease_of(stored, clock, "blue"), lease_of(stored, clock, "green")
    for _ in range(20):
        for each in (blue, green):
            await each.attempt()
        assert (blue.is_held, green.is_held, green.holder) == (True, False, "blue")
        assert blue.seconds_left == PROCESS_TIMES.deadline_seconds
        assert green.seconds_left == 0
        clock.now += PROCESS_TIMES.renew_seconds
    assert (blue.times_taken, green.times_taken) == (1, 0)


async def test_a_dead_holder_is_replaced_after_its_duration(stored, clock):
    """Whoever waits counts from the last change that it has seen, on its own clock."""
    blue, green = lease_of(stored, clock, "blue"), lease_of(stored, clock, "green")
    await blue.attempt()
    clock.now += 14
    await green.attempt()
    clock.now += 14.9
    await green.attempt()
    assert not green.is_held
    clock.now += 0.1
    await green.attempt()
    assert green.is_held
    assert blue.is_held  # it does not know better yet
    assert blue.seconds_left == 0
    await blue.attempt()
    assert not blue.is_held


async def test_a_released_lease_is_taken_at_once(stored, clock):
    """Also if the last renewal was carried out without an answer."""
    blue, green = lease_of(stored, clock, "blue"), lease_of(stored, clock, "green")
    await blue.attempt()
    await green.attempt()
    stored.loses_answers = True
    await blue.attempt()
    stored.loses_answers = False
    await blue.release()
    assert not blue.is_held
    await green.attempt()
    assert green.is_held
    await blue.release()
    assert stored.records[KEY].holder == "green"


async def test_without_an_answer_the_holder_stops_in_time(stored, clock):
    """Its time runs from when the last renewal that was answered began."""
    blue = lease_of(stored, clock, "blue")
    await blue.attempt()
    stored.problem = ClusterUnavailableError("away")
    for left in (8, 6, 4, 2, 0, 0):
        clock.now += 2
        await blue.attempt()
        assert blue.is_held
        assert blue.seconds_left == left
        assert blue.problem == "away"
    stored.problem = None
    await blue.attempt()
    assert blue.seconds_left == PROCESS_TIMES.deadline_seconds
    assert blue.problem is None
    assert blue.times_taken == 1  # nobody else held it meanwhile


async def test_who_slept_while_another_came_and_went_begins_anew(stored, clock):
    """What it knows is old, though the Lease is free again."""
    blue, green = lease_of(stored, clock, "blue"), lease_of(stored, clock, "green")
    await blue.attempt()
    await green.attempt()
    clock.now += 20
    await green.attempt()
    await green.release()
    await blue.attempt()
    assert blue.is_held
    assert blue.times_taken == 2


@pytest.mark.parametrize("error", [KeyError("metadata"), ClusterUnavailableError("away")])
async def test_no_answer_ends_it(stored, clock, error):
    """A malformed answer counts as a failed attempt, and the next one comes after a pause."""
    blue = lease_of(stored, clock, "blue")
    stored.problem = error
    await blue.attempt()
    assert blue.problem
    assert not blue.is_held
    assert blue.due_at == clock.now + PROCESS_TIMES.look_seconds


async def test_a_deleted_lease_is_made_again(stored, clock):
    """Whoever comes first holds it."""
    blue, green = lease_of(stored, clock, "blue"), lease_of(stored, clock, "green")
    await blue.attempt()
    del stored.records[KEY]
    await blue.attempt()
    assert blue.is_held
    del stored.records[KEY]
    await green.attempt()
    await blue.attempt()
    assert (blue.is_held, green.is_held) == (False, True)


async def test_in_a_namespace_that_is_deleted_work_goes_on(stored, clock):
    """No Lease can be made there any more, and finalizers must still be removed."""
    blue = lease_of(stored, clock, "blue")
    await blue.attempt()
    stored.ending.add(KEY.namespace)
    del stored.records[KEY]
    clock.now += 60
    await blue.attempt()
    assert blue.seconds_left == PROCESS_TIMES.deadline_seconds


def test_the_clock_is_not_the_time_of_day():
    """It never goes back, and is not the wall clock, which may be set."""
    before = lease_clock()
    assert before <= lease_clock()


# --- All Leases of a process ---------------------------------------------------------------------


@pytest.fixture
async def leaderships(stored: StoredLeases, clock: Clock) -> AsyncIterator[Any]:
    """Starts a process: `start("blue")`."""
    tasks: list[asyncio.Task[None]] = []

    def start(identity: str, *, lease: ObjectKey = KEY) -> Leadership:
        found = Leadership(
            leases=cast("Leases", stored),
            key=lease,
            identity=identity,
            metrics=OperatorMetrics(CollectorRegistry()),
            clock=clock,
        )
        tasks.append(asyncio.create_task(found.run(lambda: None), name=identity))
        return found

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_a_namespace_is_served_by_the_leader(leaderships, clock):
    """Only while both Leases are held, and only where there are JobQueues."""
    blue = leaderships("blue")
    blue.want({"shop", "mail"})
    await eventually(lambda: blue.serves("shop") and blue.serves("mail"))
    assert 0 < blue.seconds_left("shop") <= PROCESS_TIMES.deadline_seconds
    with pytest.raises(NotLeadingError, match="namespace 'other' is not held yet"):
        blue.seconds_left("other")
    clock.now += PROCESS_TIMES.deadline_seconds
    with pytest.raises(NotLeadingError, match=r"shop/operator was not renewed in time"):
        blue.seconds_left("shop")


async def test_who_stands_by_may_write_nothing(leaderships, stored):
    """The refusal names who leads; the Leases of namespaces are not even read."""
    blue = leaderships("blue")
    await eventually(lambda: blue.is_leading)
    green = leaderships("green")
    green.want({"shop"})
    await eventually(lambda: green._process.holder == "blue")
    with pytest.raises(NotLeadingError, match=r"shop/operator is held by 'blue'"):
        green.seconds_left("shop")
    assert ObjectKey("shop", NAMESPACE_LEASE) not in stored.records


async def test_a_successor_in_the_same_installation_keeps_its_namespaces(leaderships, stored):
    """They are the installation's: no other installation gets in between."""
    blue = leaderships("blue")
    blue.want({"shop"})
    await eventually(lambda: blue.serves("shop"))
    rival = leaderships("rival", lease=ObjectKey("other", "operator"))
    rival.want({"shop"})
    await eventually(lambda: rival.is_leading and rival._namespaces["shop"].holder)
    green = leaderships("green")
    green.want({"shop"})
    await blue.resign()
    assert not blue.is_leading
    assert stored.records[ObjectKey("shop", NAMESPACE_LEASE)].holder == "shop/operator"
    await eventually(lambda: green.serves("shop"))
    assert not rival.serves("shop")
    with pytest.raises(NotLeadingError, match="held by 'shop/operator'"):
        rival.seconds_left("shop")


# --- Writes --------------------------------------------------------------------------------------


class Recorder:
    """A client that records what would be sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def __getattr__(self, name: str) -> Any:
        """Return what records a request."""

        async def send(*_: object, **__: object) -> Any:
            self.sent.append(name)
            await asyncio.Event().wait()

        return send


def writes_of(cluster: Cluster) -> dict[str, Any]:
    """Return a call of each method that writes."""
    key = ObjectKey("shop", "mail")
    manifest = {"metadata": {"name": "mail", "namespace": "shop"}}
    event: Any = {"is_warning": False, "reason": "Ok", "message": ""}
    return {
        "apply_deployment": lambda: cluster.apply_deployment(manifest),
        "scale_deployment": lambda: cluster.scale_deployment(key, 1),
        "patch_schedule_status": lambda: cluster.patch_schedule_status(key, {}),
        "set_deletion_cost": lambda: cluster.set_deletion_cost(key, 1),
        "patch_status": lambda: cluster.patch_status(key, {}),
        "apply_finalizers": lambda: cluster.apply_finalizers(key, []),
        "create_event": lambda: cluster.create_event(key, "uid", **event),
    }


def test_every_method_that_writes_is_known_here():
    """A method of the cluster reads, or is among those whose writes are checked below."""
    reads = {"connect", "close", "check_rights", "check_may_write", "read_secret"}
    names = {
        name
        for name in vars(Cluster)
        if not name.startswith(("_", "list_", "find_")) and name not in reads
    }
    assert names == set(writes_of(cast("Cluster", None)))


@pytest.mark.parametrize("name", writes_of(cast("Cluster", None)))
async def test_nothing_is_written_by_who_does_not_lead(name):
    """No request is sent, and one that is under way when the Lease runs out is given up."""
    client = Recorder()
    asked: list[str] = []

    def refuse(namespace: str) -> float:
        asked.append(namespace)
        raise NotLeadingError("no")

    cluster = Cluster(cast("Any", client), seconds_left=refuse)
    with pytest.raises(NotLeadingError, match=r"^no$"):
        await writes_of(cluster)[name]()
    assert asked == ["shop"]
    assert client.sent == []
    cluster = Cluster(cast("Any", client), seconds_left=lambda _: 0.01)
    with pytest.raises(NotLeadingError, match="until the Lease ran out"):
        await writes_of(cluster)[name]()
    assert client.sent


class Answers:
    """A server that answers requests with an empty object, and keeps what it received."""

    def __init__(self) -> None:
        self.received = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read until a request is whole, or cut off; answer it."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.received += head
            length = re.search(rb"content-length: (\d+)", head.lower())
            self.received += await reader.readexactly(int(length[1]) if length else 0)
            answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n"
            writer.write(answer + b"connection: close\r\n\r\n{}")
            await writer.drain()
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()  # also of a request whose rest the end of the test cuts off


async def test_a_body_is_kept_back_though_the_head_was_sent(tmp_path, monkeypatch):
    """A process that is suspended in between does not write when it wakes up."""
    answers = Answers()
    server = await asyncio.start_server(answers.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    context = {"cluster": "c", "user": "u", "namespace": "shop"}
    kubeconfig = {
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": context}],
        "current-context": "x",
    }
    (tmp_path / "config").write_text(json.dumps(kubeconfig))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    left = iter([10.0, 10.0, 10.0])

    def seconds_left(namespace: str) -> float:
        assert namespace == "shop"
        for each in left:
            return each
        raise NotLeadingError("no longer")

    cluster = Cluster.connect(seconds_left=seconds_left)
    key = ObjectKey("shop", "mail")
    async with server:
        await cluster.patch_status(key, {"replicas": 1})
        assert b'"replicas":1' in answers.received
        with pytest.raises(NotLeadingError, match="no longer"):
            await cluster.patch_status(key, {"replicas": 2})
        await cluster.close()
        await eventually(lambda: answers.received.count(b"PATCH") == 2)
    assert b'"replicas":2' not in answers.received
