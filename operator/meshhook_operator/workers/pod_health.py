"""Whether the pods of a JobQueue run, and if not why: in Kubernetes's words, and what follows.

Pods are not watched. They are listed only while the Deployment lacks ready ones for longer than
pods need to start, and then ever more rarely.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshhook.errors import MeshHookError
from meshhook.observability.loggers import get_logger
from meshhook_operator.api.conditions import Finding
from meshhook_operator.cluster.pod_troubles import PodProblem
from meshhook_operator.texts import capped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from meshhook_operator.cluster.client import Cluster
    from meshhook_operator.cluster.deployments import DeploymentView
    from meshhook_operator.cluster.pods import PodView

_log = get_logger("meshhook_operator.workers")

SHORTEST_PATIENCE_SECONDS, LONGEST_PATIENCE_SECONDS = 15.0, 30.0
"""How long pods may be missing before they are looked at: the lead time, within these limits."""
LOOK_SECONDS, LONGEST_LOOK_SECONDS = 15.0, 60.0
"""How long until the next look: twice as long each time that nothing new was seen."""
PODS_A_SECOND = 20.0
"""A large fleet is looked at more rarely still: so many pods a second on average."""
NODE_SECONDS = 120.0
"""How long a cluster may take to add a node before the pods that wait for it count as failing."""
STUCK_SECONDS = 180.0
"""Without any ready pod for this long, and twice the lead time, something is wrong."""
STEADY_SECONDS = 60.0
"""Pods that crashed must be ready for this long: some are ready until their first job."""

_CRASHES = (PodProblem.CRASH_LOOP, PodProblem.OUT_OF_MEMORY)
_SENTENCES = {
    PodProblem.IMAGE_PULL_FAILED: "{share} cannot pull their image: {text}",
    PodProblem.CONTAINER_NOT_CREATED: "{share} cannot start: {text}",
    PodProblem.OUT_OF_MEMORY: (
        "{share} cannot run, {text} is killed at its memory limit again and again"
    ),
    PodProblem.CRASH_LOOP: "{share} cannot run, their container ends again and again: {text}",
    PodProblem.UNSCHEDULABLE: "{share} cannot be placed on a node: {text}",
    PodProblem.PODS_REFUSED: "{share} cannot be created, the API server refuses them: {text}",
    PodProblem.NOT_READY: ("no pod has been ready for minutes, and Kubernetes gives no reason"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PodHealth:
    """What keeps pods of a JobQueue from running."""

    problem: PodProblem
    """The one that most of them have."""
    sentence: str
    failing: Mapping[PodProblem, int]
    """How many pods have each problem."""
    is_severe: bool
    """Whether at least as many pods fail as are ready."""
    holds_growth: bool
    """Whether a further pod would probably not run either."""

    @property
    def finding(self) -> Finding:
        """What the condition Ready says: a few failing pods among many do not make it false."""
        return Finding(holds=not self.is_severe, reason=self.problem.value, message=self.sentence)


def judge(
    view: DeploymentView, pods: Sequence[PodView], *, short_seconds: float, lead_seconds: float
) -> PodHealth | None:
    """Return what keeps pods from running; None if nothing does. Pure.

    Args:
        view: the Deployment.
        pods: all of its pods.
        short_seconds: for how long there have been too few ready pods.
        lead_seconds: how long a pod takes to become Ready.
    """
    ready = sum(pod.is_ready for pod in pods)
    texts: dict[PodProblem, Counter[str]] = {}
    for pod in pods:
        if pod.trouble is not None:
            texts.setdefault(pod.trouble.problem, Counter())[pod.trouble.text] += 1
    awaits_node = short_seconds < NODE_SECONDS
    if awaits_node and ready:
        texts.pop(PodProblem.UNSCHEDULABLE, None)
    missing = max(0, view.replicas - len(pods))
    if view.refusal is not None:
        texts[PodProblem.PODS_REFUSED] = Counter({view.refusal: max(1, missing)})
    if not texts and not ready and short_seconds >= max(STUCK_SECONDS, 2 * lead_seconds):
        texts[PodProblem.NOT_READY] = Counter({"": max(1, len(pods))})
    if not texts:
        return None
    failing = {problem: texts[problem].total() for problem in PodProblem if problem in texts}
    problem = max(failing, key=failing.__getitem__)
    text = min(texts[problem], key=lambda each: (-texts[problem][each], each))
    share = f"{failing[problem]} of {max(len(pods) + missing, failing[problem])} pods"
    counted = sum(failing.values())
    lasting = counted - (failing.get(PodProblem.UNSCHEDULABLE, 0) if awaits_node else 0)
    return PodHealth(
        problem=problem,
        sentence=capped(_SENTENCES[problem].format(share=share, text=text)),
        failing=failing,
        is_severe=counted >= ready,
        holds_growth=view.refusal is not None or lasting >= max(1, ready),
    )


class PodMonitor:
    """Looks at the pods of one Deployment while it lacks ready ones."""

    def __init__(self, *, cluster: Cluster, clock: Callable[[], float]) -> None:
        self._cluster = cluster
        self._clock = clock
        self.health: PodHealth | None = None
        """What keeps pods from running, as last seen; None if nothing does, or it is not known."""
        self._short_since: float | None = None
        self._steady_since: float | None = None
        self._look_at = float("-inf")
        self._pause_seconds = LOOK_SECONDS
        self._changed_at: float | None = None

    def forget(self) -> None:
        """Forget everything: it is another Deployment now, or there are to be no pods."""
        self.health = self._short_since = self._steady_since = self._changed_at = None
        self._look_at, self._pause_seconds = float("-inf"), LOOK_SECONDS

    def on_spec_changed(self) -> None:
        """Note that the pods are replaced: if they are all ready then, all is well at once."""
        self._changed_at = self._clock()
        self._look_at, self._pause_seconds = self._changed_at + LOOK_SECONDS, LOOK_SECONDS

    async def observe(self, view: DeploymentView | None, *, lead_seconds: float) -> None:
        """Look at the pods if it is time to. A failure to read them is logged.

        Args:
            view: the Deployment as last seen; None if there is none.
            lead_seconds: how long a pod takes to become Ready.
        """
        now = self._clock()
        if view is None or view.replicas == 0:
            self.forget()
        elif view.ready_replicas >= view.replicas and not view.rolling_out and not view.refusal:
            self._on_all_ready(now)
        else:
            self._steady_since = None
            if self._short_since is None:
                self._short_since = now
            short_seconds = now - self._short_since
            patience_seconds = min(
                max(lead_seconds, SHORTEST_PATIENCE_SECONDS), LONGEST_PATIENCE_SECONDS
            )
            if short_seconds >= patience_seconds and now >= self._look_at:
                await self._look(view, short_seconds, lead_seconds)

    def _on_all_ready(self, now: float) -> None:
        self._short_since = None
        if self._steady_since is None:
            self._steady_since = now
        may_crash = (
            self.health is not None and self.health.problem in _CRASHES and self._changed_at is None
        )
        if not may_crash or now - self._steady_since >= STEADY_SECONDS:
            self.forget()

    async def _look(self, view: DeploymentView, short_seconds: float, lead_seconds: float) -> None:
        before = self.health
        try:
            pods = await self._cluster.list_pods(view.key.namespace, view.selector)
        except MeshHookError as error:
            _log.warning("pods not read", deployment=str(view.key), error=str(error))
            pods = []
        else:
            self.health = judge(view, pods, short_seconds=short_seconds, lead_seconds=lead_seconds)
            if not view.rolling_out:
                self._changed_at = None  # what fails now is the new pods
        is_news = before != self.health
        pause_seconds = LOOK_SECONDS if is_news else 2 * self._pause_seconds
        self._pause_seconds = min(pause_seconds, LONGEST_LOOK_SECONDS)
        self._look_at = self._clock() + max(self._pause_seconds, len(pods) / PODS_A_SECOND)
