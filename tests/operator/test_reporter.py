"""Which events tell the story of a queue: each change once, however often it is seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, cast

import pytest

from meshhook_operator.api.conditions import (
    NOT_PAUSED,
    NUMBERS_SECONDS,
    OPERATING,
    SPEC_PAUSED,
    Finding,
)
from meshhook_operator.cluster.client import Cluster
from meshhook_operator.reconciliation.reporter import (
    KEPT_AFTER_SECONDS,
    MISSED_AFTER_SECONDS,
    SCALED_EVENT_SECONDS,
    UNLIMITED_AFTER_SECONDS,
    Reporter,
)
from meshhook_operator.reconciliation.steadiness import Steady
from meshhook_operator.scaling import Decision, Limit, Signal
from meshhook_operator.workers.fleet import Rescale
from support.jobqueues import deployment, jobqueue
from support.recorded_cluster import RecordedCluster
from support.situations import decision, queue_status, situation

LATE = {"ready": 5, "oldest_ready_seconds": 95}
AWAY = Finding(holds=False, reason="SourceUnavailable", message="the database is away")


class Story:
    """A reporter, the time, and the reasons of the events so far."""

    def __init__(self, **spec: Any) -> None:
        self.now = 1_800_000_000.0
        self.jobqueue = jobqueue(**spec)
        self.cluster = RecordedCluster()
        self.reporter = self._reporter()

    def restart(self) -> None:
        """Go on with another operator, which knows what the status says."""
        self.jobqueue = replace(self.jobqueue, status=self.reporter.status)
        self.reporter = self._reporter()

    def _reporter(self) -> Reporter:
        cluster = cast("Cluster", self.cluster)
        return Reporter(self.jobqueue, cluster=cluster, clock=lambda: self.now)

    @property
    def reasons(self) -> list[str]:
        """The reasons of all events."""
        return [reason for _, reason, _ in self.cluster.events]

    @property
    def last(self) -> str:
        """What the last event says."""
        return self.cluster.events[-1][2]

    async def see(
        self,
        *,
        seconds: float = 1.0,
        ready: Finding = OPERATING,
        paused: Finding = NOT_PAUSED,
        about: Decision | None = None,
        replicas: int | None = 1,
        queue: Mapping[str, int] | None = MappingProxyType({}),
    ) -> None:
        """Report what is seen after some seconds.

        Args:
            seconds: how many.
            ready: the finding for Ready.
            paused: the finding for Paused.
            about: the decision.
            replicas: of the Deployment; None if there is none.
            queue: its numbers; None if it could not be read.
        """
        self.now += seconds
        found = None if queue is None else queue_status(**queue)
        await self.reporter.report(
            generation=1,
            spec=self.jobqueue.spec,
            ready=ready,
            paused=paused,
            view=None if replicas is None else deployment(replicas=replicas),
            situation=situation(about or decision(replicas or 0), queue=found),
            queue=found,
            last_scale_time=None,
        )


async def test_a_queue_that_is_well_has_no_news():
    """After the first look nothing is told and nothing is written, however long all is well."""
    story = Story()
    await story.see()
    assert story.reasons == ["DeploymentCreated"]
    assert story.last == "Deployment 'emails-worker' was created with 1 replica."
    story.cluster.statuses.clear()
    for _ in range(100):
        await story.see()
    assert story.reasons == ["DeploymentCreated"]
    assert not story.cluster.statuses


async def test_numbers_are_written_at_their_own_pace():
    """Sentences with numbers that change at every tick cause no more writes than the numbers."""
    story = Story()
    writes = 0
    seconds = 600
    for tick in range(seconds):
        story.cluster.statuses.clear()
        signal = Signal.BACKLOG if tick % 2 else Signal.ARRIVALS
        rates = {"arrivals_per_second": 1.0 + tick, "replica_jobs_per_second": 2.0 + tick % 7}
        await story.see(
            replicas=20,
            queue={"ready": tick, "oldest_ready_seconds": tick % 50},
            about=decision(
                20,
                limit=Limit.MAX_REPLICAS,
                scaling_limited=True,
                recommended={signal: 21 + tick % 3},
                signal=signal,
                estimates=rates,
            ),
        )
        writes += len(story.cluster.statuses)
    assert writes <= 1 + seconds / NUMBERS_SECONDS
    assert story.reasons == ["DeploymentCreated", "MaxReplicas"]


async def test_a_deployment_of_somebody_elses_is_found():
    """A Deployment that spec.deploymentRef names is not called created."""
    story = Story(worker=None, deploymentRef={"name": "emails-worker"})
    await story.see(replicas=3)
    assert story.reasons == ["DeploymentFound"]
    assert "has 3 replicas" in story.last


async def test_a_problem_and_its_end():
    """A problem is told once with the way out, its end with how long it took."""
    story = Story()
    await story.see()
    for _ in range(10):
        await story.see(ready=AWAY, queue=None)
    await story.see(seconds=30)
    assert story.reasons[1:] == ["SourceUnavailable", "Recovered"]
    assert story.last.startswith("Recovered from SourceUnavailable after 39 s.")


async def test_a_pause_and_its_end():
    """Both ends of a pause are told."""
    story = Story()
    await story.see()
    for _ in range(3):
        await story.see(paused=SPEC_PAUSED)
    for _ in range(3):
        await story.see()
    assert story.reasons[1:] == ["SpecPaused", "Resumed"]


async def test_a_target_age_that_is_missed():
    """Lateness is told once it has lasted, its end once that has; what flickers is one episode."""
    story = Story()
    await story.see()
    await story.see(queue=LATE)
    await story.see()
    assert "TargetAgeMissed" not in story.reasons  # it was late for one look only
    await story.see(queue=LATE)
    await story.see(seconds=MISSED_AFTER_SECONDS, queue=LATE)
    assert story.reasons[1:] == ["TargetAgeMissed"]
    assert story.last == (
        "5 messages are ready and the oldest has waited 95 s; a job should start within 60 s "
        "(targetAgeSeconds). 1 of 1 worker is ready."
    )
    for _ in range(10):
        await story.see(seconds=10)
        await story.see(seconds=10, queue=LATE)
    assert story.reasons[1:] == ["TargetAgeMissed"]
    await story.see()
    await story.see(seconds=KEPT_AFTER_SECONDS)
    assert story.reasons[1:] == ["TargetAgeMissed", "TargetAgeKept"]


async def test_what_cannot_be_read_is_not_late():
    """While the queue cannot be read, its lateness is unknown, and not told again afterwards."""
    story = Story()
    await story.see(queue=LATE)
    await story.see(seconds=MISSED_AFTER_SECONDS, queue=LATE)
    await story.see(ready=AWAY, queue=None)
    condition = story.cluster.condition(story.jobqueue.key, "OnTime")
    assert condition is not None
    assert condition["status"] == "Unknown"
    await story.see(queue=LATE)
    assert story.reasons.count("TargetAgeMissed") == 1


async def test_a_limit_and_its_end():
    """A limit is told at once, with the way out; its end is told when it has lasted."""
    story = Story()
    at_maximum = decision(
        20,
        limit=Limit.MAX_REPLICAS,
        scaling_limited=True,
        recommended={Signal.BACKLOG: 50},
        signal=Signal.BACKLOG,
    )
    await story.see(replicas=20)
    for _ in range(10):
        await story.see(replicas=20, about=at_maximum)
        await story.see(replicas=20)
    assert story.reasons[1:] == ["MaxReplicas"]
    assert story.last.startswith("50 replicas needed. maxReplicas allows 20")
    await story.see(seconds=UNLIMITED_AFTER_SECONDS, replicas=20)
    assert story.reasons[1:] == ["MaxReplicas", "NotLimited"]


async def test_another_limit_in_its_place():
    """A limit that takes the place of another is told too, and neither again in this episode."""
    story = Story()
    limits = [
        decision(20, limit=limit, scaling_limited=True)
        for limit in (Limit.MAX_REPLICAS, Limit.NO_THROUGHPUT_GAIN)
    ]
    for _ in range(5):
        for about in limits:
            await story.see(replicas=20, about=about)
    assert story.reasons[1:] == ["MaxReplicas", "NoThroughputGain"]


async def test_a_restart_is_no_news():
    """An operator that starts takes up what the status says, and tells none of it again."""
    story = Story()
    limited = decision(20, limit=Limit.MAX_REPLICAS, scaling_limited=True)
    for _ in range(2):
        await story.see(seconds=MISSED_AFTER_SECONDS, replicas=20, about=limited, queue=LATE)
    assert story.reasons[1:] == ["MaxReplicas", "TargetAgeMissed"]
    story.restart()
    for _ in range(3):
        await story.see(seconds=MISSED_AFTER_SECONDS, replicas=20, about=limited, queue=LATE)
    assert story.reasons[1:] == ["MaxReplicas", "TargetAgeMissed"]


async def test_scalings_say_why():
    """The event has both numbers of replicas, and what was measured."""
    story = Story()
    await story.see()
    why = situation(
        decision(5, recommended={Signal.BACKLOG: 5}, signal=Signal.BACKLOG),
        queue=queue_status(ready=50),
    )
    await story.reporter.scaled(Rescale(1, 5), why)
    assert story.reasons[1:] == ["ScaledUp"]
    assert story.last.startswith("Scaled from 1 to 5 replicas. 50 messages are ready")


async def test_somebody_who_sets_the_replicas_makes_no_flood():
    """Setting a number back is told as that, and once a minute however often it happens."""
    story = Story()
    await story.see()
    for _ in range(20):
        await story.reporter.scaled(Rescale(5, 1), situation(decision(1)))
        await story.see()
    assert story.reasons[1:] == ["ScaledDown"]
    assert story.last.endswith("as decided before: somebody else had changed the number.")
    story.now += SCALED_EVENT_SECONDS
    await story.reporter.scaled(Rescale(5, 1), situation(decision(1)))
    assert story.reasons[1:] == ["ScaledDown", "ScaledDown"]


async def test_small_steps_are_told_once_a_minute():
    """A ramp of one replica at a time is not one event each; a large step is always told."""
    story = Story()
    await story.see(replicas=10)
    for replicas in range(10, 16):
        await story.reporter.scaled(Rescale(replicas, replicas + 1), situation())
    assert story.reasons[1:] == ["ScaledUp"]
    await story.reporter.scaled(Rescale(16, 40), situation())
    assert story.reasons[1:] == ["ScaledUp", "ScaledUp"]


@pytest.mark.parametrize("starts", [True, False])
def test_what_flickers_is_steady(starts: bool):
    """A state changes only after it was seen to differ for so long without a break."""
    state = Steady(holds=starts, on_after_seconds=10, off_after_seconds=10)
    for moment in range(100):
        state = state.observe(holds=bool(moment % 2), now=float(moment))
        assert state.holds is starts
    state = state.observe(holds=not starts, now=100.0).observe(holds=not starts, now=110.0)
    assert state.holds is not starts
