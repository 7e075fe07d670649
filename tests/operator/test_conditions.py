"""The status: what is written, and when nothing is."""

from __future__ import annotations

from typing import Any

import pytest

from meshhook_operator.api.conditions import (
    NOT_PAUSED,
    OPERATING,
    QUEUE_PAUSED,
    SPEC_PAUSED,
    Finding,
    active,
    conditions,
    on_time,
    pending_patch,
    ready_message,
    rounded_queue,
    scaling_limited,
    scaling_status,
    state_of,
    timestamp,
)
from meshhook_operator.api.status import Condition, JobQueueStatus, ScalingStatus
from meshhook_operator.scaling import Decision, Estimates, Learned, Limit, Signal
from meshhook_operator.texts import MESSAGE_LIMIT
from support.situations import queue_status, situation

NOW = 1_800_000_000.0
FAULT = Finding(holds=False, reason="SourceUnavailable", message="the database is away")


def status(**fields: Any) -> JobQueueStatus:
    """Return the status of a healthy queue."""
    found: dict[str, Any] = {
        "replicas": 1,
        "queue": queue_status(),
        "scaling": ScalingStatus(message="ok"),
    }
    return JobQueueStatus(**found | fields)


def decision(**fields: Any) -> Decision:
    """Return a decision for three replicas."""
    found: dict[str, Any] = {
        "desired_replicas": 3,
        "active_replicas": 3,
        "estimates": Estimates(),
        "learned": Learned(),
    }
    return Decision(**found | fields)


def condition(kind: str, found: list[Condition]) -> Condition:
    """Return the condition of a type."""
    (only,) = [each for each in found if each.type == kind]
    return only


def test_nothing_new_is_not_written():
    """An idle queue costs no request, however long it is idle."""
    assert pending_patch(status(), status(), seconds_since_write=1e9) is None


def test_numbers_alone_wait_half_a_minute():
    """Changing numbers of messages are written from time to time."""
    new = status(queue=queue_status(ready=5))
    assert pending_patch(status(), new, seconds_since_write=29) is None
    assert pending_patch(status(), new, seconds_since_write=30) == {"queue": {"ready": 5}}


@pytest.mark.parametrize(
    ("change", "patch"),
    [
        ({"replicas": 2}, {"replicas": 2}),
        (
            {"scaling": ScalingStatus(message="ok", limited_by="MaxReplicas")},
            {"scaling": {"limitedBy": "MaxReplicas"}},
        ),
        ({"deployment": "emails-worker"}, {"deployment": "emails-worker"}),
    ],
)
def test_what_matters_is_written_at_once(change, patch):
    """Changes of replicas, decisions and conditions are written at once."""
    assert pending_patch(status(), status(**change), seconds_since_write=0) == patch


def test_what_is_gone_is_removed():
    """The merge patch removes a field or signal that is no longer present."""
    old = status(deployment="emails-worker", scaling=ScalingStatus(signals={"backlog": 2}))
    new = status(scaling=ScalingStatus(signals={"arrivals": 1}))
    assert pending_patch(old, new, seconds_since_write=60) == {
        "deployment": None,
        "scaling": {"signals": {"backlog": None, "arrivals": 1}},
    }


def test_a_condition_keeps_its_time_while_its_status_stays():
    """`lastTransitionTime` changes with the status, not with reason or message."""
    first = conditions(JobQueueStatus(), {"Ready": FAULT}, generation=1, now=NOW)
    other = Finding(holds=False, reason="LoginRefused", message="the password is wrong")
    last = JobQueueStatus(conditions=first)
    second = conditions(last, {"Ready": other}, generation=2, now=NOW + 60)
    assert condition("Ready", second).last_transition_time == timestamp(NOW)
    assert condition("Ready", second).reason == "LoginRefused"
    assert condition("Ready", second).observed_generation == 2
    last = JobQueueStatus(conditions=second)
    third = conditions(last, {"Ready": OPERATING}, generation=2, now=NOW + 90)
    assert condition("Ready", third).status == "True"
    assert condition("Ready", third).last_transition_time == timestamp(NOW + 90)


@pytest.mark.parametrize(
    ("has_deployment", "replicas", "ready_replicas", "holds", "reason"),
    [
        (False, 0, 0, False, "NoDeployment"),
        (True, 0, 0, False, "ScaledToZero"),
        (True, 3, 0, False, "WorkersNotReady"),
        (True, 3, 1, True, "WorkersReady"),
    ],
)
def test_active(has_deployment, replicas, ready_replicas, holds, reason):
    """Active says whether any worker is ready."""
    found = active(has_deployment=has_deployment, replicas=replicas, ready_replicas=ready_replicas)
    assert (found.holds, found.reason) == (holds, reason)


def test_scaling_limited():
    """ScalingLimited names the limit, and only if jobs may wait longer because of it."""
    limited = decision(limit=Limit.MAX_REPLICAS, scaling_limited=True)
    harmless = decision(limit=Limit.MIN_REPLICAS, scaling_limited=False)
    found = scaling_limited(situation(limited))
    assert (found.holds, found.reason) == (True, "MaxReplicas")
    assert "raise spec.scaling.maxReplicas" in found.message
    assert not scaling_limited(situation(harmless)).holds
    assert not scaling_limited(None).holds


@pytest.mark.parametrize(
    ("queue", "is_missed", "paused", "status", "reason"),
    [
        (queue_status(ready=1, oldest_ready_seconds=5), False, NOT_PAUSED, "True", "Kept"),
        (queue_status(ready=1, oldest_ready_seconds=95), True, NOT_PAUSED, "False", "Missed"),
        (queue_status(), True, NOT_PAUSED, "False", "Missed"),
        (queue_status(ready=9), False, SPEC_PAUSED, "True", "Kept"),
        (queue_status(ready=9), False, QUEUE_PAUSED, "Unknown", "QueuePaused"),
        (None, False, NOT_PAUSED, "Unknown", "QueueNotRead"),
    ],
)
def test_on_time(queue, is_missed, paused, status, reason):
    """OnTime says whether jobs start within the target age, with both numbers, or not known."""
    finding = on_time(queue, target_age_seconds=60, is_missed=is_missed, paused=paused)
    (found,) = conditions(JobQueueStatus(), {"OnTime": finding}, generation=1, now=NOW)
    assert (found.status, found.reason.removeprefix("TargetAge")) == (status, reason)
    assert ("60 s" in found.message) == (status != "Unknown")


def test_what_is_kept_back_is_told_apart():
    """OnTime holds while all that waits is kept back, and says by what."""
    queue = queue_status(kept_back=500, kept_back_by_holds=500)
    finding = on_time(
        queue, target_age_seconds=60, is_missed=False, paused=NOT_PAUSED, queue_name="orders"
    )
    assert finding.holds
    assert finding.message == (
        "No message is ready; the target is 60 s (targetAgeSeconds). 500 messages are kept back by "
        "a hold of their keys, so they ask for no further workers (meshhook keys list orders)."
    )


def test_what_to_do_is_said():
    """A problem ends with the way out, however long the server's text is."""
    problem = Finding(holds=False, reason="LoginRefused", message="no " * 1_000)
    message = ready_message(problem)
    assert message.endswith("the operator reads it again by itself.")
    assert len(message) <= MESSAGE_LIMIT
    assert ready_message(OPERATING) == OPERATING.message


@pytest.mark.parametrize(
    ("worst", "state"),
    [
        ({}, "Operating"),
        ({"ScalingLimited": ("True", "MaxReplicas")}, "MaxReplicas"),
        (
            {"OnTime": ("False", "TargetAgeMissed"), "ScalingLimited": ("True", "MaxReplicas")},
            "TargetAgeMissed",
        ),
        (
            {"Paused": ("True", "SpecPaused"), "OnTime": ("False", "TargetAgeMissed")},
            "SpecPaused",
        ),
        ({"Ready": ("False", "Conflict"), "Paused": ("True", "SpecPaused")}, "Conflict"),
        ({"Ready": ("True", "ReplicasContested")}, "ReplicasContested"),
        ({"OnTime": ("Unknown", "QueuePaused")}, "Operating"),
    ],
)
def test_the_state_in_a_word(worst, state):
    """`kubectl get` shows the reason of the condition that matters most."""
    usual = {
        "Ready": ("True", "Operating"),
        "Active": ("False", "ScaledToZero"),
        "OnTime": ("True", "TargetAgeKept"),
        "ScalingLimited": ("False", "NotLimited"),
        "Paused": ("False", "NotPaused"),
    }
    found = [
        Condition(
            type=kind,
            status=status,
            reason=reason,
            message="",
            observed_generation=1,
            last_transition_time=timestamp(NOW),
        )
        for kind, (status, reason) in (usual | worst).items()
    ]
    assert state_of(found) == state


def with_message(kind: str, message: str) -> JobQueueStatus:
    """Return a status with one condition."""
    finding = Finding(holds=False, reason="Because", message=message)
    return status(conditions=conditions(JobQueueStatus(), {kind: finding}, generation=1, now=NOW))


def test_numbers_in_sentences_are_numbers():
    """A sentence that differs in its numbers is no news; a problem that differs is."""
    for kind in ("OnTime", "ScalingLimited"):
        before, after = with_message(kind, "5 wait"), with_message(kind, "6 wait")
        assert pending_patch(before, after, seconds_since_write=29) is None
        assert pending_patch(before, after, seconds_since_write=30)
    before, after = with_message("Ready", "no login"), with_message("Ready", "no route")
    assert pending_patch(before, after, seconds_since_write=0)


def test_a_decision_explains_itself():
    """The status shows the signals, what limited them, and when the next scale-down may come."""
    found = scaling_status(
        decision(
            recommended={Signal.BACKLOG: 4, Signal.ARRIVALS: 0},
            limit=Limit.SCALE_DOWN_WINDOW,
            next_scale_down_at=NOW,
            estimates=Estimates(arrivals_per_second=1.2345),
            learned=Learned(replica_jobs_per_second=7.5, lead_seconds=2.0),
        ),
        "Why.",
    )
    assert found.message == "Why."
    assert found.signals == {"backlog": 4}
    assert found.limited_by == "ScaleDownWindow"
    assert found.arrivals_per_second == 1.2
    assert found.next_scale_down_time == timestamp(NOW) == "2027-01-15T08:00:00Z"
    assert (found.jobs_per_second_per_replica, found.lead_seconds) == (7.5, 2.0)


def test_numbers_are_rounded():
    """A change in the third digit is not written; dead letters are counted exactly."""
    found = rounded_queue(queue_status(ready=1234, dead_letters=1234))
    assert (found.ready, found.dead_letters) == (1200, 1234)


def test_a_rate_that_fades_comes_to_zero():
    """Otherwise its ever smaller values would be written for ever."""
    found = scaling_status(decision(estimates=Estimates(arrivals_per_second=0.004)), "")
    assert found.arrivals_per_second == 0
