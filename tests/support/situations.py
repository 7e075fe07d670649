"""Scaling decisions and what they are about, for tests of what people read."""

from __future__ import annotations

from typing import Any

from meshhook_operator.api.scaling_spec import ScalingSpec
from meshhook_operator.api.sentences import Situation
from meshhook_operator.api.status import QueueStatus
from meshhook_operator.scaling import Decision, Estimates, Learned


def queue_status(**numbers: Any) -> QueueStatus:
    """Return the numbers of a queue, 0 where none is given."""
    zeros: dict[str, Any] = {
        name: 0 for name, field in QueueStatus.model_fields.items() if field.annotation is int
    }
    return QueueStatus(**zeros | numbers)


def decision(desired: int = 3, /, **fields: Any) -> Decision:
    """Return a decision; what is given for `estimates` are fields of it."""
    estimates = Estimates(**fields.pop("estimates", {}))
    fields = {"active_replicas": desired} | fields
    return Decision(desired_replicas=desired, estimates=estimates, learned=Learned(), **fields)


def situation(
    about: Decision | None = None, /, *, queue: QueueStatus | None = None, **fields: Any
) -> Situation:
    """Return what there is to tell about a decision, for a queue that could be read.

    Args:
        about: the decision; by default one for three replicas that nothing limits.
        queue: the numbers of the queue; none waits by default.
        fields: of the situation, or of the scaling settings.
    """
    known = {
        name: fields.pop(name)
        for name in ("problem", "has_deployment", "queue_name")
        if name in fields
    }
    scaling = ScalingSpec.model_validate({"maxReplicas": 20} | fields)
    return Situation(
        scaling=scaling,
        decision=about or decision(),
        queue=None if known.get("problem") else queue or queue_status(),
        **known,
    )
