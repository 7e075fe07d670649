"""Cordons of one JobQueue: written where something changes, and not otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from meshhook.errors import DatabaseError
from meshhook_operator.api.jobqueue import ObjectKey
from meshhook_operator.cluster.pods import PodView
from meshhook_operator.reconciliation.worker_cordons import WorkerCordons
from meshhook_operator.scaling import WorkerReport
from support.jobqueues import deployment


class Setting:
    """Cordons with a clock, a cluster with pods a, b and c, and a database that obeys."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.pods = ["a", "b", "c"]
        self.lists = 0
        self.written: list[list[str]] = []
        self.refuses = False
        self._until: dict[str, float] = {}
        self._cordons = WorkerCordons(
            ObjectKey("shop", "emails"), cluster=cast("Any", self), clock=lambda: self.now
        )

    async def list_pods(self, *_: object) -> list[PodView]:
        """Return the pods, as the cluster does."""
        self.lists += 1
        return [PodView(ObjectKey("shop", name)) for name in self.pods]

    def check_may_write(self, _: str) -> None:
        """Allow it, as for the leader."""

    async def cordon(self, _: str, hosts: Sequence[str], seconds: float) -> int:
        """Cordon, as the database does."""
        if self.refuses:
            raise DatabaseError("permission denied for table workers")
        self.written.append(list(hosts))
        self._until = dict.fromkeys(hosts, self.now + seconds)
        return len(hosts)

    async def tick(self, active: int, *hosts: str, may_add: bool = True) -> list[list[str]]:
        """Let a second pass, and return what was written."""
        self.now += 1
        self.written.clear()
        lasting = {host: max(0.0, self._until.get(host, 0.0) - self.now) for host in hosts}
        await self._cordons.ensure(
            "emails",
            active_replicas=active,
            may_add=may_add,
            reports=[_report(host, running=n, left=lasting[host]) for n, host in enumerate(hosts)],
            view=deployment(replicas=len(self.pods)),
            database=cast("Any", self),
            tick_seconds=1.0,
        )
        return list(self.written)


def _report(host: str, *, running: int, left: float) -> WorkerReport:
    return WorkerReport(
        worker=host,
        host=host,
        concurrency=10,
        running=running,
        processed=0,
        busy_seconds=0.0,
        seen_at=0.0,
        cordoned=left > 0,
        cordon_seconds=left,
    )


@pytest.fixture
def setting() -> Setting:
    """A JobQueue with three pods."""
    return Setting()


async def test_while_all_are_needed_nothing_is_asked(setting: Setting):
    """Neither the database nor the API server, in any number of ticks."""
    for _ in range(50):
        assert await setting.tick(3, "a", "b", "c", may_add=False) == []
    assert setting.lists == 0


async def test_a_cordon_is_written_once_and_renewed_after_half_of_its_time(setting: Setting):
    """It lasts 30 seconds: in a minute it is written four times, and pods are listed once."""
    written = [await setting.tick(1, "a", "b", "c") for _ in range(60)]
    assert written[0] == [["a", "b"]]
    assert [each for each in written if each] == [[["a", "b"]]] * 4
    assert setting.lists == 1


async def test_what_is_needed_again_is_let_free(setting: Setting):
    """One statement, even if there is nothing left to cordon."""
    await setting.tick(1, "a", "b", "c")
    assert await setting.tick(2, "a", "b", "c") == [["a"]]
    assert await setting.tick(3, "a", "b", "c", may_add=False) == [[]]
    assert await setting.tick(3, "a", "b", "c", may_add=False) == []


async def test_workers_that_run_elsewhere_are_left_alone(setting: Setting):
    """They do not count as pods, and no pod of ours is kept in their place."""
    assert await setting.tick(1, "elsewhere", "a", "b", "c") == [["a", "b"]]
    assert await setting.tick(1, "elsewhere", "a", "b", "c") == []
    assert setting.lists == 1


async def test_a_refusal_stops_nothing_and_is_told_seldom(
    setting: Setting, caplog: pytest.LogCaptureFixture
):
    """An operator whose role may not cordon scales on; it tries again every half minute."""
    setting.refuses = True
    for _ in range(60):
        assert await setting.tick(1, "a", "b", "c") == []
    assert len(caplog.records) == 2
    setting.refuses = False
    setting.now += 60
    assert await setting.tick(1, "a", "b", "c") == [["a", "b"]]
