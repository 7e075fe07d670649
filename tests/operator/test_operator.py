"""What the operator finds out although no watch reported it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from meshhook_operator import operator as module
from meshhook_operator.api.jobqueue import JobQueue, ObjectKey
from meshhook_operator.operator import Operator, steady_clock
from support.jobqueues import jobqueue
from support.waiting import eventually

TARGET = ObjectKey("shop", "mail")


class Listings:
    """What the API server lists."""

    def __init__(self) -> None:
        self.hpas: list[tuple[ObjectKey, str]] = []
        self.nonsense = 0

    def check_may_write(self, _: str) -> None:
        """Allow everything."""

    async def list_jobqueues(self, namespace: str) -> list[JobQueue]:
        """Return no JobQueue; at first, raise if the test asks for it."""
        if self.nonsense:
            self.nonsense -= 1
            raise ValueError(namespace)
        return []

    async def list_hpas(self, _: str) -> list[tuple[ObjectKey, str]]:
        """Return what there is."""
        return self.hpas


@pytest.fixture
def listings() -> Listings:
    """What the API server has."""
    return Listings()


@pytest.fixture
async def operator(listings: Listings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Operator]:
    """A running operator that resyncs often."""
    monkeypatch.setattr(module, "RESYNC_SECONDS", 0.02)
    found = Operator(
        cluster=cast("Any", listings), registry=CollectorRegistry(), namespaces=["shop"]
    )
    task = asyncio.create_task(found.run(), name="operator")
    yield found
    task.cancel()
    await asyncio.wait([task])


async def test_an_autoscaler_whose_deletion_was_not_reported_is_no_conflict(operator, listings):
    """An interrupted watch does not report what was deleted meanwhile; a listing shows it."""
    listings.hpas = [(TARGET, "mail")]
    operator.use_hpas({TARGET: ["mail"]})
    mine = jobqueue(worker=None, deploymentRef={"name": "mail"})

    operator.on_jobqueue_changed(mine)
    reconciler = operator._term.jobqueues.get(mine.key)

    def conflict() -> Any:
        operator._term.jobqueues.refresh_claims()
        return operator._term.jobqueues.conflict_of(reconciler)

    await asyncio.sleep(0.1)
    assert "HorizontalPodAutoscaler" in conflict().message
    listings.hpas = []
    await eventually(lambda: conflict() is None)
    listings.hpas = [(TARGET, "mail")]
    await eventually(conflict)


async def test_one_that_was_created_again_outlives_the_deletion_of_the_old_one(listings):
    """A watch may report the deletion after a listing has found the new one."""
    operator = Operator(
        cluster=cast("Any", listings), registry=CollectorRegistry(), namespaces=["shop"]
    )
    mine = jobqueue()
    operator.on_jobqueue_changed(mine)
    operator.on_jobqueue_deleted(mine.key, "that of the old one")
    assert mine.key in operator._jobqueues
    operator.on_jobqueue_deleted(mine.key, mine.uid)
    assert mine.key not in operator._jobqueues


async def test_what_the_watch_reports_during_a_listing_is_newer(listings, monkeypatch):
    """A listing that takes long has the versions of before."""
    operator = Operator(
        cluster=cast("Any", listings), registry=CollectorRegistry(), namespaces=["shop"]
    )
    old, new = jobqueue(), replace(jobqueue(), generation=2)

    async def list_jobqueues(_: str) -> list[JobQueue]:
        operator.on_jobqueue_changed(new)
        return [old]

    async def list_jobschedules(_: str) -> None:
        return None

    monkeypatch.setattr(listings, "list_jobqueues", list_jobqueues)
    monkeypatch.setattr(listings, "list_jobschedules", list_jobschedules, raising=False)
    await operator._resync_once()
    assert operator._jobqueues[new.key] is new


async def test_an_answer_that_makes_no_sense_ends_nothing(operator, listings):
    """A malformed listing is skipped, and the next one counts."""
    listings.nonsense = 3
    await eventually(lambda: listings.nonsense == 0)
    operator.use_hpas({TARGET: ["mail"]})
    await eventually(lambda: operator._deleted_hpas == {(TARGET, "mail")})


def test_a_clock_that_is_set_back_holds_nothing_up(monkeypatch):
    """Setting the node's clock back does not affect the operator's clock."""
    clock = steady_clock()
    before = clock()
    assert before == pytest.approx(time.time(), abs=60)
    monkeypatch.setattr(time, "time", lambda: before - 7_200)
    assert clock() >= before
