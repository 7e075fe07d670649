"""Guard rails with a memory: windows, step limits, and increases that gained nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshhook_operator.scaling.rates import Throughput
    from meshhook_operator.scaling.spec import ScalingSpec, StepLimit


@dataclass(frozen=True, slots=True)
class Moment:
    """A number of replicas at a time of the operator's clock."""

    at: float
    replicas: int


@dataclass(frozen=True, slots=True)
class NeedWindow:
    """The recent needs; replicas are only reduced to the highest of them."""

    moments: tuple[Moment, ...] = ()

    def add(self, replicas: int, now: float, window_seconds: float) -> NeedWindow:
        """Note the present need, and forget those older than the window."""
        # Only a need that no later one exceeds can become the maximum.
        kept = tuple(
            m for m in self.moments if m.at > now - window_seconds and m.replicas > replicas
        )
        return NeedWindow((*kept, Moment(now, replicas)))

    @property
    def most(self) -> int:
        """The highest need within the window."""
        return self.moments[0].replicas

    def falls_at(self, replicas: int, window_seconds: float) -> float:
        """Return when the highest need falls below that many, unless it grows again."""
        above = [moment.at for moment in self.moments if moment.replicas >= replicas]
        return above[-1] + window_seconds if above else float("-inf")


@dataclass(frozen=True, slots=True)
class Steps:
    """How many replicas there were at recent changes, for the step limits."""

    moments: tuple[Moment, ...] = ()

    def note(self, before: int, now: float, spec: ScalingSpec) -> Steps:
        """Note the number before a change."""
        limits = (spec.scale_up, spec.scale_down)
        longest = max((limit.period_seconds for limit in limits if limit), default=0.0)
        kept = tuple(moment for moment in self.moments if moment.at > now - longest)
        return Steps((*kept, Moment(now, before)) if longest else ())

    def highest(self, limit: StepLimit, replicas: int, now: float) -> int:
        """Return the highest number allowed now."""
        base = min((replicas, *self._within(limit, now)))
        return max(replicas, base + limit.step(base))

    def lowest(self, limit: StepLimit, replicas: int, now: float) -> int:
        """Return the lowest number allowed now."""
        base = max((replicas, *self._within(limit, now)))
        return min(replicas, max(0, base - limit.step(base)))

    def _within(self, limit: StepLimit, now: float) -> list[int]:
        return [m.replicas for m in self.moments if m.at > now - limit.period_seconds]


SETTLING_SECONDS = 10.0
"""For this long after a change of size, the throughput still reflects the old size."""
SEEN_SECONDS = 10.0
STRIKES = 2
LEAST_GROWTH = 1.2
LEAST_GAIN = 0.2
HOLD_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Gain:
    """Whether more replicas complete more jobs.

    Whenever the fleet has grown by a fifth and has then run at full load for a while, its
    throughput is compared with that before. If two increases in a row gained less than a fifth of
    what they should have, something else is the bottleneck, such as a database that the jobs share.
    More replicas would only make it worse.
    """

    known_replicas: int = 0
    """The last number of replicas whose throughput is known; 0 if none is."""
    known_jobs_per_second: float = 0.0
    replicas: int = 0
    """The present number."""
    since: float = 0.0
    """When the number last changed, or the fleet was last not at full load."""
    rates: tuple[float, ...] = ()
    """The rates of a replica since the fleet settled."""
    strikes: int = 0
    held_until: float | None = None

    def observe(
        self, ready_replicas: int, seen: Throughput | None, run_seconds: float, now: float
    ) -> Gain:
        """Take the throughput of the fleet between two samples.

        Args:
            ready_replicas: the present number.
            seen: the throughput; None if it is not known.
            run_seconds: how long a job runs: so long after a change no more jobs end than before.
            now: seconds of the operator's clock.
        """
        if self.held_until is not None and now >= self.held_until:
            return Gain()
        if seen is not None and not seen.is_saturated:
            # Whatever was the bottleneck has been overcome.
            return Gain(replicas=ready_replicas, since=now, held_until=self.held_until)
        if ready_replicas != self.replicas:
            return replace(self, replicas=ready_replicas, since=now, rates=())
        settled_at = self.since + max(SETTLING_SECONDS, run_seconds)
        if seen is None or not ready_replicas or now < settled_at:
            return self
        rates = (*self.rates, seen.replica_jobs_per_second)
        if now < settled_at + max(SEEN_SECONDS, run_seconds):
            return replace(self, rates=rates)
        mean = sum(rates) / len(rates)
        return self._judge(ready_replicas * mean, settled_at - self.since, now)

    def _judge(self, jobs_per_second: float, settling_seconds: float, now: float) -> Gain:
        growth = self.replicas / self.known_replicas if self.known_replicas else 0.0
        anew = replace(self, since=now - settling_seconds, rates=())
        if 1.0 < growth < LEAST_GROWTH:
            return anew
        known = replace(anew, known_replicas=self.replicas, known_jobs_per_second=jobs_per_second)
        if growth == 1.0:
            return known
        gained = jobs_per_second / self.known_jobs_per_second - 1.0 if growth else 0.0
        if growth < 1.0 or gained >= LEAST_GAIN * (growth - 1.0):
            return replace(known, strikes=0, held_until=None)
        strikes = self.strikes + 1
        held_until = now + HOLD_SECONDS if strikes >= STRIKES else self.held_until
        return replace(known, strikes=strikes, held_until=held_until)
