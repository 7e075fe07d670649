"""A tenant that floods a limited key asks for no more workers than its limit lets run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.scaling.contract import Queue, Result
from bench.scaling.key_traces import LIMIT, QUIET_PER_SECOND, flooding_tenant
from bench.scaling.meshhook_policy import MeshHook
from bench.scaling.slots import SlotWorld, run
from meshhook_operator.scaling import Sample

TRACE = flooding_tenant(seed=1, target_age_seconds=60)
ENOUGH = 4
"""Replicas for all slots that can be used: 8 for the flood, and about 3 for the quiet ones."""


class Unaware(MeshHook):
    """Takes every message that is due for one that may start, as before."""

    def _sample(self, world: Queue) -> Sample:
        found = self._read(world)
        return replace(
            found,
            ready=found.ready + found.kept_back,
            kept_back=0,
            behind_limits=0,
            kept_back_is_capped=False,
        )


def played(policy: type[MeshHook]) -> Result:
    """Play the trace with a policy."""
    world = SlotWorld(TRACE, seed=1)
    result = run(world, policy(world))
    assert world.is_done, f"{world.kept_back_jobs} are left at the end"
    return result


@pytest.fixture(scope="module")
def result() -> Result:
    """What the operator's own decision does."""
    return played(MeshHook)


def test_the_fleet_is_no_larger_than_the_limit_lets_it_work(result: Result):
    """Also while more is kept back than is counted, and the flood goes on."""
    assert result.most_replicas <= ENOUGH


def test_nobody_is_late(result: Result):
    """The quiet tenants start in time, and so does what the limit lets start."""
    assert result.late_share <= 0.001


def test_the_limit_is_used(result: Result):
    """There are slots for all that may run, as long as more of the flood waits."""
    replicas = [replicas for second, replicas, _ in result.history if 400 <= second <= 2_000]
    assert min(replicas) * TRACE.concurrency >= LIMIT + QUIET_PER_SECOND


def test_a_scaler_that_does_not_know_pays_for_it(result: Result):
    """It starts many times as many pods, and nothing is done sooner."""
    unaware = played(Unaware)
    assert unaware.most_replicas >= 10 * ENOUGH
    assert unaware.replica_seconds > 2 * result.replica_seconds
