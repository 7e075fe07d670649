"""How many workers a queue needs: pure decisions from samples, with the time passed in.

`decide` is called once per tick and queue. It reads no clock, no database and no cluster.
"""

from meshhook_operator.scaling.decision import Decision, Estimates, Limit, Signal
from meshhook_operator.scaling.holding import LONG_SECONDS, runs_are_long
from meshhook_operator.scaling.observations import Band, Failure, Fleet, Sample, WorkerReport
from meshhook_operator.scaling.scaler import decide, lookahead_seconds
from meshhook_operator.scaling.spec import ScalingSpec, StepLimit, default_tick_seconds
from meshhook_operator.scaling.state import Learned, ScalerState

__all__ = [
    "LONG_SECONDS",
    "Band",
    "Decision",
    "Estimates",
    "Failure",
    "Fleet",
    "Learned",
    "Limit",
    "Sample",
    "ScalerState",
    "ScalingSpec",
    "Signal",
    "StepLimit",
    "WorkerReport",
    "decide",
    "default_tick_seconds",
    "lookahead_seconds",
    "runs_are_long",
]
