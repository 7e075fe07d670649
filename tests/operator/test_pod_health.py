"""When pods are looked at, and what follows from what is seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from meshhook_operator.api.jobqueue import ObjectKey
from meshhook_operator.cluster.deployments import DeploymentView
from meshhook_operator.cluster.pod_troubles import PodProblem, PodTrouble
from meshhook_operator.cluster.pods import PodView
from meshhook_operator.errors import ClusterUnavailableError
from meshhook_operator.workers.pod_health import PodHealth, PodMonitor, judge
from support.jobqueues import deployment, deployment_body

IMAGE = PodTrouble(PodProblem.IMAGE_PULL_FAILED, "not found")
CRASH = PodTrouble(PodProblem.CRASH_LOOP, "container worker ended with exit code 2")
NO_NODE = PodTrouble(PodProblem.UNSCHEDULABLE, "0/1 nodes are available")
QUOTA = "exceeded quota: pods, requested: pods=1, used: pods=2, limited: pods=2"


def pods(ready: int, *troubles: PodTrouble | None) -> list[PodView]:
    """Return so many ready pods, and one for each trouble; None is one that starts."""
    good = [PodView(ObjectKey("shop", f"good-{number}")) for number in range(ready)]
    return good + [
        PodView(ObjectKey("shop", f"bad-{number}"), is_ready=False, trouble=trouble)
        for number, trouble in enumerate(troubles)
    ]


def health(
    found: list[PodView], *, replicas: int | None = None, seconds: float = 30.0, **view: Any
) -> PodHealth | None:
    """Return what is judged of pods that have been too few for a while."""
    replicas = len(found) if replicas is None else replicas
    seen = replace(deployment(replicas=replicas), **view)
    return judge(seen, found, short_seconds=seconds, lead_seconds=10.0)


def severe(found: list[PodView], **more: Any) -> PodHealth:
    """Return the same, where something is wrong."""
    judged = health(found, **more)
    assert judged is not None
    return judged


def test_pods_that_start_are_well():
    """Without a trouble, pods that are not ready yet are no news."""
    assert health(pods(1, None, None)) is None
    assert health(pods(0, None)) is None


def test_no_pod_can_run():
    """If no pod runs, Ready is false for the pods' reason, and no more are asked for."""
    judged = severe(pods(0, IMAGE, IMAGE))
    assert judged.finding.reason == "ImagePullFailed"
    assert judged.finding.message == "2 of 2 pods cannot pull their image: not found"
    assert not judged.finding.holds
    assert judged.holds_growth


def test_one_of_many_crashes():
    """A pod that crashes among twenty is told, but the queue is ready, and may grow."""
    judged = severe(pods(20, CRASH))
    assert judged.finding.holds
    assert judged.finding.reason == "CrashLoop"
    assert judged.finding.message.startswith("1 of 21 pods cannot run")
    assert not judged.holds_growth


def test_half_of_them_crash():
    """As many that crash as are ready hold the fleet."""
    assert severe(pods(5, *[CRASH] * 5)).holds_growth
    assert not severe(pods(5, *[CRASH] * 4)).holds_growth


def test_the_problem_of_most_is_told():
    """Of several problems, the one that most pods have is told; each is counted."""
    judged = severe(pods(0, IMAGE, CRASH, CRASH))
    assert judged.problem is PodProblem.CRASH_LOOP
    assert judged.failing == {PodProblem.IMAGE_PULL_FAILED: 1, PodProblem.CRASH_LOOP: 2}


def test_pods_that_are_refused():
    """A quota's words are told, and no more are asked for though others are ready."""
    judged = severe(pods(4), replicas=6, refusal=QUOTA)
    assert judged.finding.reason == "PodsRefused"
    assert judged.finding.message.startswith("2 of 6 pods cannot be created")
    assert QUOTA in judged.finding.message
    assert judged.finding.holds
    assert judged.holds_growth
    assert not severe(pods(2), replicas=6, refusal=QUOTA).finding.holds


def test_a_cluster_that_may_add_a_node():
    """Pods without a node are no trouble for two minutes while others run, and hold nothing."""
    assert health(pods(1, NO_NODE)) is None
    alone = severe(pods(0, NO_NODE))
    assert not alone.finding.holds
    assert not alone.holds_growth
    later = severe(pods(1, NO_NODE), seconds=121.0)
    assert not later.finding.holds
    assert later.holds_growth


def test_pods_that_never_become_ready():
    """Without any ready pod for minutes the queue is not well, though nobody says why."""
    assert health(pods(0, None), seconds=170.0) is None
    judged = severe(pods(0, None), seconds=200.0)
    assert judged.finding.reason == "WorkersNotReady"
    assert not judged.finding.holds


def test_the_text_is_made_safe():
    """What a container printed may be anything: it is escaped, and cut."""
    trouble = PodTrouble(PodProblem.CRASH_LOOP, "\x1b[31m" + "x" * 5_000)
    message = severe(pods(0, trouble)).finding.message
    assert "\x1b" not in message
    assert len(message) <= 500


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (f'pods "emails-worker-5d9c-x2x9d" is forbidden: {QUOTA}', QUOTA),
        ('Pod "emails-worker-5d9c-x2x9d" is invalid: spec: no', "spec: no"),
        ('admission webhook "a.b" denied the request', 'admission webhook "a.b" denied'),
    ],
)
def test_a_refusal_does_not_change_with_each_try(said: str, told: str):
    """The name of the pod that was refused is left out: it is another one each time."""
    body = deployment_body()
    condition = {"type": "ReplicaFailure", "status": "True", "message": said}
    body["status"]["conditions"] = [condition]
    refusal = DeploymentView.from_body(body).refusal
    assert refusal is not None
    assert refusal.startswith(told)


class Pods:
    """A cluster with pods, which counts how often they are read, and a clock to be set."""

    def __init__(self) -> None:
        self.found: list[PodView] = []
        self.now = 0.0
        self.looks: list[float] = []
        self.is_down = False
        self.view = deployment(replicas=2)
        self.monitor = PodMonitor(cluster=cast("Any", self), clock=lambda: self.now)

    async def list_pods(self, *_: object) -> list[PodView]:
        """Return the pods."""
        self.looks.append(self.now)
        if self.is_down:
            raise ClusterUnavailableError("down")
        return self.found

    async def pass_by(self, seconds: int, *, ready: int) -> PodHealth | None:
        """Let time pass, a tick a second, with so many ready pods; return what is known then."""
        for _ in range(seconds):
            self.now += 1.0
            view = replace(self.view, ready_replicas=ready)
            await self.monitor.observe(view, lead_seconds=10.0)
        return self.monitor.health


@pytest.fixture
def cluster() -> Pods:
    """Two pods are wanted."""
    return Pods()


async def test_a_fleet_that_is_well_costs_nothing(cluster: Pods):
    """Pods are not read while all are ready, while some start, or while none is wanted."""
    await cluster.pass_by(100, ready=2)
    await cluster.pass_by(14, ready=1)
    await cluster.pass_by(100, ready=2)
    cluster.view = replace(cluster.view, replicas=0)
    await cluster.pass_by(100, ready=0)
    assert cluster.looks == []


async def test_looks_become_rarer(cluster: Pods):
    """Pods that fail for an hour are read once a minute; a change of the spec asks again."""
    cluster.found = pods(0, CRASH, CRASH)
    await cluster.pass_by(3_600, ready=0)
    assert len(cluster.looks) < 65
    assert cluster.looks[0] == pytest.approx(16.0)
    count = len(cluster.looks)
    cluster.monitor.on_spec_changed()
    await cluster.pass_by(16, ready=0)
    assert len(cluster.looks) == count + 1


async def test_a_large_fleet_is_looked_at_more_rarely(cluster: Pods):
    """Two thousand failing pods are read every hundred seconds."""
    cluster.view = replace(cluster.view, replicas=2_000)
    cluster.found = pods(0, *[CRASH] * 2_000)
    await cluster.pass_by(316, ready=0)
    assert cluster.looks == [16.0, 116.0, 216.0, 316.0]


async def test_an_image_that_is_there_again(cluster: Pods):
    """Once all pods are ready, the trouble is over."""
    cluster.found = pods(0, IMAGE, IMAGE)
    assert await cluster.pass_by(17, ready=0)
    assert await cluster.pass_by(1, ready=2) is None


async def test_a_pod_that_crashes_at_its_first_job(cluster: Pods):
    """Pods that crashed are well only when they have been ready for a minute."""
    cluster.found = pods(0, CRASH, CRASH)
    assert await cluster.pass_by(17, ready=0)
    for _ in range(3):
        assert await cluster.pass_by(10, ready=2)
        assert await cluster.pass_by(40, ready=0)
    assert await cluster.pass_by(61, ready=2) is None


async def test_a_crash_that_is_mended(cluster: Pods):
    """After a change of the spec, pods that are all ready are well at once."""
    cluster.found = pods(0, CRASH, CRASH)
    assert await cluster.pass_by(17, ready=0)
    cluster.monitor.on_spec_changed()
    assert await cluster.pass_by(5, ready=0)
    assert await cluster.pass_by(1, ready=2) is None


async def test_a_change_that_mends_nothing(cluster: Pods):
    """If the new pods crash too, they must be ready for a minute as well."""
    cluster.found = pods(0, CRASH, CRASH)
    await cluster.pass_by(17, ready=0)
    cluster.monitor.on_spec_changed()
    await cluster.pass_by(20, ready=0)
    assert await cluster.pass_by(30, ready=2)
    assert await cluster.pass_by(31, ready=2) is None


async def test_a_rollout_that_is_stuck_is_looked_at(cluster: Pods):
    """New pods that crash are seen though all the old ones are ready."""
    cluster.view = replace(cluster.view, rolling_out=True)
    cluster.found = pods(2, CRASH)
    judged = await cluster.pass_by(17, ready=2)
    assert judged is not None
    assert judged.problem is PodProblem.CRASH_LOOP


async def test_pods_that_cannot_be_read(cluster: Pods):
    """While the API server does not answer, what was seen last stays."""
    cluster.found = pods(0, IMAGE, IMAGE)
    judged = await cluster.pass_by(17, ready=0)
    cluster.is_down = True
    assert await cluster.pass_by(60, ready=0) is judged
