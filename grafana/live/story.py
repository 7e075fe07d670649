"""What happens to the fleet: a day in a few minutes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from support.monitored_fleet import MonitoredFleet
from support.monitored_producer import Flow

_CALM, _SURGE, _DRAIN, _FAILURE = 60, 90, 120, 110
_SPARE = 120  # so that load is still there when somebody looks


@dataclass(frozen=True, slots=True)
class Story:
    """A calm start, a surge that outgrows the workers, a killed worker, and a failing service.

    The workers of `orders` and `mails` are started and stopped as the operator's scaler decides.

    Args:
        speed: how many times shorter it is told. Default 1: some six minutes.
    """

    speed: float = 1.0

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return (_CALM + _SURGE + _DRAIN + _FAILURE) / self.speed

    def flows(self) -> list[Flow]:
        """Return what is sent."""
        phases = [
            (_CALM, 12.0, 0.06),
            (_SURGE, 60.0, 0.06),
            (_DRAIN, 12.0, 0.06),
            (_FAILURE + _SPARE, 14.0, 0.7),
        ]
        orders = [(seconds / self.speed, rate, failing) for seconds, rate, failing in phases]
        errors = ["TimeoutError", "CarrierUnavailableError", "ConnectionError"]
        return [
            Flow("orders", orders, 0.15, errors, gone_share=0.004, delayed_share=0.1),
            Flow("mails", [(self.seconds + _SPARE, 25, 0.01)], 0.01),
            Flow("reports", [(self.seconds + _SPARE, 4, 0.02)], 1.5),
        ]

    async def tell(self, fleet: MonitoredFleet) -> None:
        """Let it happen, from the start of the workers to the end."""
        fleet.scaled |= {"orders": 3, "mails": 10}
        await asyncio.gather(
            fleet.start_worker("reports-1", "reports", 8),
            fleet.start_worker("reports-2", "reports", 4),
        )
        await fleet.start_producer(self.flows())
        await self._wait(_CALM + _SURGE)
        await self._wait(_DRAIN / 2)
        fleet.kill("reports-1")
        await fleet.start_worker("reports-3", "reports", 8)
        await self._wait(_DRAIN / 2 + _FAILURE - 10)

    async def _wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.speed)
