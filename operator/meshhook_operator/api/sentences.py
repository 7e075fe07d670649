"""Why a queue has as many replicas as it has, as sentences with the measured numbers. Pure.

To explain a new limit, add a function to `LIMITS` under its value; a signal that is not about
starting messages in time goes to `_NEEDS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from meshhook.priorities import PRIORITY_NAMES
from meshhook_operator.api.wording import (
    as_sentence,
    duration,
    rate_text,
    replicas_text,
    two_digits,
)
from meshhook_operator.scaling import Limit, Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from meshhook_operator.api.scaling_spec import ScalingSpec, StepLimit
    from meshhook_operator.api.status import QueueStatus
    from meshhook_operator.scaling import Decision, Estimates

_DEFAULT_PERIOD_SECONDS = 15
_LONG_RUN_SHARE = 0.25
"""Of the target age: jobs that run longer are worth a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What there is to tell about the scaling of one queue."""

    scaling: ScalingSpec
    """The scaling settings of the JobQueue."""
    decision: Decision
    """The last decision."""
    queue: QueueStatus | None
    """The queue as last read; None if it never was."""
    problem: str = ""
    """Why the queue cannot be read now, as a sentence; empty if it can."""
    has_deployment: bool = True
    """Whether there is a Deployment to scale."""
    queue_name: str = ""
    """The queue, for commands about it."""

    @property
    def target_seconds(self) -> float:
        """Within how many seconds the jobs should start that the decision is about."""
        return self.decision.band_target_seconds or self.scaling.target_age_seconds

    @property
    def priority(self) -> str | None:
        """The priority that needs the most; None in a queue without priorities."""
        return None if self.decision.band is None else PRIORITY_NAMES[self.decision.band]

    @property
    def needed(self) -> int:
        """How many replicas the signals ask for."""
        return max(self.decision.recommended.values(), default=0)

    @property
    def stays(self) -> str:
        """The replicas that there are to be, with the verb for that."""
        count = self.decision.desired_replicas
        if count == 0 or not self.has_deployment:
            return "no replica is started"
        return f"{replicas_text(count)} {'stays' if count == 1 else 'stay'}"


def scaling_sentence(situation: Situation) -> str:
    """Return what was measured, how many replicas that calls for, and what limits them."""
    told = _scaling_sentence(situation)
    if situation.queue is None or situation.decision.conflict is not None:
        return told
    return f"{told} {kept_back_sentence(situation.queue, situation.queue_name)}".rstrip()


def _scaling_sentence(situation: Situation) -> str:
    decision = situation.decision
    if decision.conflict is not None:
        return f"{as_sentence(decision.conflict)} Nothing is scaled until then."
    if not situation.has_deployment and situation.queue is not None:
        return f"{_demand(situation)}. There is no Deployment to scale yet."
    if decision.limit is None:
        return f"{_demand(situation)}{_remainder(situation)}."
    if decision.limit in _WITHOUT_DEMAND or situation.queue is None:
        return limit_sentence(situation)
    return f"{_demand(situation)}. {limit_sentence(situation)}"


def limit_sentence(situation: Situation) -> str:
    """Return what limits the replicas, and what to do about it; empty if nothing does."""
    limit = situation.decision.limit
    if limit is None:
        return ""
    told = LIMITS.get(limit)
    return told(situation) if told else f"The number of replicas is limited: {limit}."


def waiting_clause(queue: QueueStatus, backlog: int = 0) -> str:
    """Return how many messages wait, and for how long the oldest has; without a full stop.

    Args:
        queue: the queue as last read.
        backlog: the estimate of the ready messages, if counting them was cut short.
    """
    ready = queue.ready
    text = f"about {two_digits(backlog):,}" if backlog > ready * 1.1 else f"{ready:,}"
    if ready == 0:
        return "No message is ready"
    waited = duration(queue.oldest_ready_seconds)
    if ready == 1:
        return f"1 message is ready and has waited {waited}"
    return f"{text} messages are ready and the oldest has waited {waited}"


def kept_back_sentence(queue: QueueStatus, queue_name: str) -> str:
    """Return how many messages limits and holds keep back, and where to look; empty if none are.

    Args:
        queue: the queue as last read.
        queue_name: its name, for the command.
    """
    kept = queue.kept_back
    if not kept:
        return ""
    whose = "its key" if kept == 1 else "their keys"
    reasons = (
        (queue.kept_back_by_key_limits, f"the limit of {whose}"),
        (queue.kept_back_by_order, f"the order of {whose}"),
        (queue.kept_back_by_queue_limit, "the limit of the queue"),
        (queue.kept_back_by_holds, f"a hold of {whose}"),
    )
    found = [(count, what) for count, what in reasons if count]
    by = (
        f" by {found[0][1]}"
        if len(found) == 1
        else ": " + ", ".join(f"{count:,} by {what}" for count, what in found)
    )
    only_queue = queue.kept_back_by_queue_limit and len(found) == 1
    way_out = f"meshhook {'queue show' if only_queue else 'keys list'} {queue_name}"
    are, ask = ("message is", "it asks") if kept == 1 else ("messages are", "they ask")
    return f"{kept:,} {are} kept back{by}, so {ask} for no further workers ({way_out})."


# --- What is needed ------------------------------------------------------------------------------


def _demand(situation: Situation) -> str:
    queue = situation.queue
    if queue is None:
        return "The queue has not been read yet"
    parts = [_work(queue, situation.decision.estimates)]
    if situation.needed and (rates := _rates(situation)):
        parts.append(rates)
    return f"{'; '.join(parts)}, so {_need(situation)}"


def _work(queue: QueueStatus, estimates: Estimates) -> str:
    waiting, due = waiting_clause(queue, estimates.backlog), estimates.due_soon
    running = f"{queue.running:,} {'job is' if queue.running == 1 else 'jobs are'} running"
    if due:
        how_many = f"{two_digits(due):,}{' more' if queue.ready else ''}"
        fall = f"{how_many} {'falls' if due == 1 else 'fall'} due before a new pod could be Ready"
        waiting += f"; {fall}" if queue.ready else f", but {fall}"
        return f"{waiting}; {running}" if queue.running else waiting
    if queue.running:
        return f"{waiting}, and {running}" if queue.ready else f"{waiting}, but {running}"
    return waiting if queue.ready else f"{waiting} and no job is running"


def _rates(situation: Situation) -> str:
    estimates = situation.decision.estimates
    arrivals, rate = estimates.arrivals_per_second, estimates.replica_jobs_per_second
    found = []
    if rate_text(arrivals) != "0":
        found.append(f"{rate_text(arrivals)} a second arrive")
    if rate is not None:
        found.append(f"a replica completes about {rate_text(rate)} a second{_run_time(situation)}")
    return " and ".join(found)


def _run_time(situation: Situation) -> str:
    """Return how long a job runs, if that matters beside the target age."""
    run_seconds = situation.decision.estimates.run_seconds
    if run_seconds is None or run_seconds < situation.target_seconds * _LONG_RUN_SHARE:
        return ""
    return f" (a job runs for about {duration(two_digits(run_seconds))})"


def _need(situation: Situation) -> str:
    signal, needed = situation.decision.signal, situation.needed
    if signal is None or not needed:
        return "no replica is needed"
    told = _NEEDS.get(signal) or _to_start_in_time(situation)
    return f"{replicas_text(needed)} {'is' if needed == 1 else 'are'} {told}"


def _to_start_in_time(situation: Situation) -> str:
    if situation.decision.estimates.replica_jobs_per_second is None:
        # The formula for the first jobs knows messages, and no time.
        length = situation.scaling.target_length
        per = "message" if length == 1 else f"{length:,} messages"
        return f"needed: one for every {per} (targetLength) until the speed of a replica is known"
    age = duration(situation.target_seconds)
    if situation.priority is not None:
        return f"needed to start {situation.priority} jobs within {age}{_wait(situation)}"
    waiting = situation.queue.ready if situation.queue else 0
    what = "it" if waiting == 1 else "each"
    return f"needed to start {what} within {age} (targetAgeSeconds)"


def _wait(situation: Situation) -> str:
    """Return how long the jobs wait of the priority that needs the most; empty if none does."""
    priorities = situation.queue.priorities if situation.queue else None
    found = (priorities or {}).get(situation.priority or "")
    if found is None or not found.ready:
        return ""
    waited = duration(found.oldest_ready_seconds)
    return f" ({situation.priority} jobs wait {waited} of {duration(found.target_seconds)})"


_NEEDS: Mapping[str, str] = {
    Signal.SCHEDULED: "needed when they fall due",
    Signal.RUNNING: "needed until the running jobs have finished",
}
"""What the replicas are needed for, where it is not to start messages in time."""


def _remainder(situation: Situation) -> str:
    """Return why there are more replicas than are needed, though nothing limits that."""
    decision = situation.decision
    if decision.desired_replicas <= max(situation.needed, 0):
        return ""
    if decision.next_scale_down_at is not None:
        return (
            f"; {situation.stays} for the moment, since replicas are removed step by step, at most "
            "half at once"
        )
    return f"; {situation.stays} as a margin, so that small changes of the load change nothing"


def _target(situation: Situation) -> str:
    return duration(situation.target_seconds)


# --- What limits it ------------------------------------------------------------------------------


def _max_replicas(situation: Situation) -> str:
    return (
        f"maxReplicas allows {situation.scaling.max_replicas:,}, so jobs may wait longer than "
        f"{_target(situation)}. If the database and the services that "
        "the jobs call can take more, raise spec.scaling.maxReplicas."
    )


def _min_replicas(situation: Situation) -> str:
    return f"{situation.stays}, since minReplicas is {situation.scaling.min_replicas:,}."


def _scale_up_limit(situation: Situation) -> str:
    step = _step(situation.scaling.scale_up)
    return (
        f"spec.scaling.scaleUp adds at most {step}, so there are to be "
        f"{situation.decision.desired_replicas:,} for the moment, and jobs may wait longer than "
        f"{_target(situation)}."
    )


def _scale_down_limit(situation: Situation) -> str:
    step = _step(situation.scaling.scale_down)
    return f"{situation.stays} for the moment: spec.scaling.scaleDown removes at most {step}."


def _scale_down_window(situation: Situation) -> str:
    window = duration(situation.scaling.scale_down.window_seconds)
    needed = "it was" if situation.decision.desired_replicas == 1 else "as many were"
    return (
        f"{situation.stays} {_until(situation)}, since {needed} needed within the last {window} "
        "(scaleDown.windowSeconds)."
    )


def _finishing_jobs(situation: Situation) -> str:
    decision = situation.decision
    leaving = decision.desired_replicas - decision.active_replicas
    if leaving == 1:
        return (
            "1 more claims no new jobs, and is removed when the long ones that it runs have ended."
        )
    return (
        f"{leaving:,} more claim no new jobs; each is removed when the long ones that it runs have "
        "ended."
    )


def _cooldown(situation: Situation) -> str:
    cooldown = duration(situation.scaling.cooldown_seconds)
    return (
        f"The last replica stays {_until(situation)}: it goes when no message has arrived for "
        f"{cooldown} (cooldownSeconds)."
    )


def _rollout(situation: Situation) -> str:
    return (
        f"{situation.stays} until the rollout is complete: nothing is scaled "
        "down while pods are being replaced."
    )


def _starting(situation: Situation) -> str:
    window = duration(situation.scaling.scale_down.window_seconds)
    return (
        f"{situation.stays} {_until(situation)}: the operator has just started "
        f"to read this queue, and scales nothing down for the first {window} "
        "(scaleDown.windowSeconds)."
    )


def _source_unavailable(situation: Situation) -> str:
    count = situation.decision.desired_replicas if situation.has_deployment else 0
    why = f" {as_sentence(situation.problem)}" if situation.problem else ""
    fallback = situation.scaling.fallback
    if fallback is not None and situation.decision.recommended.get(Signal.FALLBACK):
        kept = f"there are to be at least {replicas_text(fallback.replicas)} (scaling.fallback)"
    elif count:
        kept = f"{situation.stays}: nothing is scaled down without knowing what waits"
    else:
        kept = "no replica is started"
    return f"The queue cannot be read, so {kept}.{why}"


def _no_throughput_gain(situation: Situation) -> str:
    return (
        f"{situation.stays}, because the last replicas that were added did not "
        "complete more jobs: something that all of them share is the bottleneck, such as a "
        "database, or a service that limits its callers. Look there; more are tried later."
    )


def _slow_pods(situation: Situation) -> str:
    lead = duration(two_digits(situation.decision.estimates.lead_seconds))
    may_wait, field = " (targetAgeSeconds) that a job may wait", "targetAgeSeconds"
    if situation.priority is not None:
        may_wait = f" that jobs of priority {situation.priority} may wait"
        field = f"spec.priorities.targetSeconds.{situation.priority}"
    return (
        f"A new pod takes {lead} to become Ready, longer than the "
        f"{_target(situation)}{may_wait}: jobs that find no free worker start late, whatever is "
        f"scaled. Raise spec.scaling.minReplicas or {field}, or let the pods start faster."
    )


def _pods_failing(situation: Situation) -> str:
    why = situation.decision.pods_failing
    return (
        f"{situation.stays}, because pods do not start, and more of them would not either. "
        f"{as_sentence(why or '')}"
    ).rstrip()


def _paused(situation: Situation) -> str:
    return f"Scaling is paused, so {situation.stays}."


def _conflict(situation: Situation) -> str:
    return f"Something else scales the Deployment as well, so {situation.stays}."


LIMITS: Mapping[str, Callable[[Situation], str]] = {
    Limit.MAX_REPLICAS: _max_replicas,
    Limit.MIN_REPLICAS: _min_replicas,
    Limit.SCALE_UP_LIMIT: _scale_up_limit,
    Limit.SCALE_DOWN_LIMIT: _scale_down_limit,
    Limit.SCALE_DOWN_WINDOW: _scale_down_window,
    Limit.FINISHING_JOBS: _finishing_jobs,
    Limit.COOLDOWN: _cooldown,
    Limit.ROLLOUT: _rollout,
    Limit.STARTING: _starting,
    Limit.SOURCE_UNAVAILABLE: _source_unavailable,
    Limit.NO_THROUGHPUT_GAIN: _no_throughput_gain,
    Limit.PODS_FAILING: _pods_failing,
    Limit.SLOW_PODS: _slow_pods,
    Limit.PAUSED: _paused,
    Limit.CONFLICT: _conflict,
}
"""The sentence of each limit, with what to do where something can be done."""
_WITHOUT_DEMAND = frozenset({Limit.SOURCE_UNAVAILABLE})
"""Their sentences do not start with the measured numbers, which are old by then."""


def _step(limit: StepLimit) -> str:
    parts = []
    if limit.replicas is not None:
        parts.append(replicas_text(limit.replicas))
    if limit.percent is not None:
        parts.append(f"{limit.percent:,} % of the replicas")
    period = limit.period_seconds or _DEFAULT_PERIOD_SECONDS
    return f"{' or '.join(parts) or 'a limited number'} in {duration(period)}"


def _until(situation: Situation) -> str:
    moment = situation.decision.next_scale_down_at
    if moment is None:
        return "for the moment"
    return f"at least until {datetime.fromtimestamp(moment, UTC):%H:%M:%S} UTC"
