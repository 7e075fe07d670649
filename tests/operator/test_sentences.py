"""What people read about a decision: the numbers, what they call for, what limits it."""

from __future__ import annotations

from typing import Any

import pytest

from meshhook_operator.api.sentences import LIMITS, scaling_sentence
from meshhook_operator.api.wording import as_sentence, duration, rate_text
from meshhook_operator.scaling import Limit, Signal
from support.situations import decision, queue_status, situation

NOON = 1_800_014_400.0
MEASURED = {"arrivals_per_second": 14.2, "replica_jobs_per_second": 3.21}
BUSY = queue_status(ready=240, running=20, oldest_ready_seconds=12)

STORIES: list[tuple[str, Any, Any, dict[str, Any], str]] = [
    (
        "measured",
        decision(5, recommended={Signal.BACKLOG: 5}, signal=Signal.BACKLOG, estimates=MEASURED),
        queue_status(ready=240, oldest_ready_seconds=12),
        {},
        (
            "240 messages are ready and the oldest has waited 12 s; 14 a second arrive and a "
            "replica completes about 3.2 a second, so 5 replicas are needed to start each "
            "within 60 s (targetAgeSeconds)."
        ),
    ),
    (
        "not measured yet",
        decision(1, recommended={Signal.BACKLOG: 1}, signal=Signal.BACKLOG),
        queue_status(ready=1),
        {},
        (
            "1 message is ready and has waited less than 1 s, so 1 replica is needed: one for "
            "every 10 messages (targetLength) until the speed of a replica is known."
        ),
    ),
    (
        "long jobs",
        decision(
            9,
            recommended={Signal.ARRIVALS: 9},
            signal=Signal.ARRIVALS,
            estimates={
                "arrivals_per_second": 0.25,
                "replica_jobs_per_second": 0.028,
                "run_seconds": 41.3,
            },
        ),
        queue_status(ready=1, running=8, oldest_ready_seconds=3),
        {"targetAgeSeconds": 30},
        (
            "1 message is ready and has waited 3 s, and 8 jobs are running; 0.25 a second "
            "arrive and a replica completes about 0.028 a second (a job runs for about 41 s), "
            "so 9 replicas are needed to start it within 30 s (targetAgeSeconds)."
        ),
    ),
    (
        "idle at the minimum",
        decision(2, limit=Limit.MIN_REPLICAS, recommended={Signal.BACKLOG: 0}),
        queue_status(),
        {"minReplicas": 2},
        (
            "No message is ready and no job is running, so no replica is needed. 2 replicas "
            "stay, since minReplicas is 2."
        ),
    ),
    (
        "at zero",
        decision(0, estimates={"arrivals_per_second": 0.05}),
        queue_status(),
        {"minReplicas": 0},
        "No message is ready and no job is running, so no replica is needed.",
    ),
    (
        "scheduled",
        decision(
            3,
            recommended={Signal.SCHEDULED: 3},
            signal=Signal.SCHEDULED,
            estimates={"due_soon": 30},
        ),
        queue_status(scheduled=30),
        {},
        (
            "No message is ready, but 30 fall due before a new pod could be Ready, so 3 "
            "replicas are needed when they fall due."
        ),
    ),
    (
        "running",
        decision(1, recommended={Signal.RUNNING: 1}, signal=Signal.RUNNING),
        queue_status(running=1),
        {},
        (
            "No message is ready, but 1 job is running, so 1 replica is needed until the "
            "running jobs have finished."
        ),
    ),
    (
        "at the maximum",
        decision(
            20,
            limit=Limit.MAX_REPLICAS,
            scaling_limited=True,
            recommended={Signal.BACKLOG: 50},
            signal=Signal.BACKLOG,
            estimates=MEASURED,
        ),
        BUSY,
        {},
        (
            "240 messages are ready and the oldest has waited 12 s, and 20 jobs are running; 14 "
            "a second arrive and a replica completes about 3.2 a second, so 50 replicas are "
            "needed to start each within 60 s (targetAgeSeconds). maxReplicas allows 20, so "
            "jobs may wait longer than 60 s. If the database and the services that the jobs "
            "call can take more, raise spec.scaling.maxReplicas."
        ),
    ),
    (
        "within the window",
        decision(6, limit=Limit.SCALE_DOWN_WINDOW, next_scale_down_at=NOON),
        queue_status(),
        {"scaleDown": {"windowSeconds": 300}},
        (
            "No message is ready and no job is running, so no replica is needed. 6 replicas "
            "stay at least until 12:00:00 UTC, since as many were needed within the last 300 s "
            "(scaleDown.windowSeconds)."
        ),
    ),
    (
        "half at once",
        decision(4, next_scale_down_at=NOON),
        queue_status(),
        {},
        (
            "No message is ready and no job is running, so no replica is needed; 4 replicas "
            "stay for the moment, since replicas are removed step by step, at most half at once."
        ),
    ),
    (
        "a step at a time",
        decision(
            2,
            limit=Limit.SCALE_UP_LIMIT,
            recommended={Signal.BACKLOG: 8},
            signal=Signal.BACKLOG,
            estimates=MEASURED,
        ),
        queue_status(ready=80, oldest_ready_seconds=1),
        {"scaleUp": {"replicas": 1, "periodSeconds": 60}},
        (
            "80 messages are ready and the oldest has waited 1 s; 14 a second arrive and a "
            "replica completes about 3.2 a second, so 8 replicas are needed to start each "
            "within 60 s (targetAgeSeconds). spec.scaling.scaleUp adds at most 1 replica in 60 "
            "s, so there are to be 2 for the moment, and jobs may wait longer than 60 s."
        ),
    ),
    (
        "unreadable",
        decision(2, limit=Limit.SOURCE_UNAVAILABLE),
        None,
        {"problem": "the database is away"},
        (
            "The queue cannot be read, so 2 replicas stay: nothing is scaled down without "
            "knowing what waits. The database is away."
        ),
    ),
    (
        "never readable",
        decision(1, limit=Limit.SOURCE_UNAVAILABLE),
        None,
        {"problem": "Secret 'absent' does not exist", "has_deployment": False},
        "The queue cannot be read, so no replica is started. Secret 'absent' does not exist.",
    ),
    (
        "fallback",
        decision(
            5,
            limit=Limit.SOURCE_UNAVAILABLE,
            recommended={Signal.FALLBACK: 5},
            signal=Signal.FALLBACK,
        ),
        None,
        {"problem": "the database is away", "fallback": {"replicas": 5}},
        (
            "The queue cannot be read, so there are to be at least 5 replicas "
            "(scaling.fallback). The database is away."
        ),
    ),
    (
        "no Deployment",
        decision(1, limit=Limit.MIN_REPLICAS),
        queue_status(),
        {"has_deployment": False},
        (
            "No message is ready and no job is running, so no replica is needed. There is no "
            "Deployment to scale yet."
        ),
    ),
    (
        "conflict",
        decision(1, limit=Limit.CONFLICT, conflict="HPA 'theirs' also scales it: delete it"),
        queue_status(),
        {},
        "HPA 'theirs' also scales it: delete it. Nothing is scaled until then.",
    ),
    (
        "pods that fail",
        decision(
            3,
            limit=Limit.PODS_FAILING,
            recommended={Signal.BACKLOG: 9},
            signal=Signal.BACKLOG,
            pods_failing="the image cannot be pulled",
            estimates=MEASURED,
        ),
        queue_status(ready=90, oldest_ready_seconds=300),
        {},
        (
            "90 messages are ready and the oldest has waited 300 s; 14 a second arrive and a "
            "replica completes about 3.2 a second, so 9 replicas are needed to start each "
            "within 60 s (targetAgeSeconds). 3 replicas stay, because pods do not start, and "
            "more of them would not either. The image cannot be pulled."
        ),
    ),
    (
        "paused",
        decision(
            1,
            limit=Limit.PAUSED,
            recommended={Signal.BACKLOG: 2},
            signal=Signal.BACKLOG,
            estimates=MEASURED,
        ),
        queue_status(ready=20, oldest_ready_seconds=5),
        {},
        (
            "20 messages are ready and the oldest has waited 5 s; 14 a second arrive and a "
            "replica completes about 3.2 a second, so 2 replicas are needed to start each "
            "within 60 s (targetAgeSeconds). Scaling is paused, so 1 replica stays."
        ),
    ),
]


@pytest.mark.parametrize(
    ("about", "queue", "fields", "sentence"),
    [story[1:] for story in STORIES],
    ids=[story[0] for story in STORIES],
)
def test_the_story(about, queue, fields, sentence):
    """Each state is told with what was measured, what it calls for, what limits it, and a way."""
    assert scaling_sentence(situation(about, queue=queue, **fields)) == sentence


KEPT_BACK: list[tuple[dict[str, int], str]] = [
    ({}, ""),
    (
        {"kept_back_by_key_limits": 9_996},
        (
            "9,996 messages are kept back by the limit of their keys, so they ask for no further "
            "workers (meshhook keys list orders)."
        ),
    ),
    (
        {"kept_back_by_holds": 1},
        (
            "1 message is kept back by a hold of its key, so it asks for no further workers "
            "(meshhook keys list orders)."
        ),
    ),
    (
        {"kept_back_by_order": 12},
        (
            "12 messages are kept back by the order of their keys, so they ask for no further "
            "workers (meshhook keys list orders)."
        ),
    ),
    (
        {"kept_back_by_queue_limit": 40},
        (
            "40 messages are kept back by the limit of the queue, so they ask for no further "
            "workers (meshhook queue show orders)."
        ),
    ),
    (
        {"kept_back_by_key_limits": 30, "kept_back_by_holds": 1_000, "kept_back_by_queue_limit": 4},
        (
            "1,034 messages are kept back: 30 by the limit of their keys, 4 by the limit of the "
            "queue, 1,000 by a hold of their keys, so they ask for no further workers (meshhook "
            "keys list orders)."
        ),
    ),
]


@pytest.mark.parametrize(("reasons", "sentence"), KEPT_BACK)
def test_what_is_kept_back(reasons: dict[str, int], sentence: str):
    """How many, by what, and the command that shows more, after what was decided."""
    queue = queue_status(running=4, kept_back=sum(reasons.values()), **reasons)
    told = scaling_sentence(
        situation(
            decision(1, recommended={Signal.RUNNING: 1}, signal=Signal.RUNNING),
            queue=queue,
            queue_name="orders",
        )
    )
    start = (
        "No message is ready, but 4 jobs are running, so 1 replica is needed until the running "
        "jobs have finished."
    )
    assert told == f"{start} {sentence}".rstrip()


@pytest.mark.parametrize("limit", list(Limit))
def test_every_limit_has_a_sentence(limit: Limit):
    """No limit is told by its name alone, and none leaves a sentence without an end."""
    assert limit in LIMITS
    told = scaling_sentence(situation(decision(limit=limit, next_scale_down_at=NOON)))
    assert told.endswith(".")
    assert limit not in told
    assert "  " not in told


def test_a_limit_without_a_sentence_is_still_told(monkeypatch: pytest.MonkeyPatch):
    """A limit that nobody has found words for is named."""
    monkeypatch.setattr("meshhook_operator.api.sentences.LIMITS", {})
    told = scaling_sentence(situation(decision(limit=Limit.ROLLOUT)))
    assert "The number of replicas is limited: Rollout." in told


def test_a_count_that_was_cut_short_is_an_estimate():
    """Counting stops at 10,000; what is known to be more is given as about so much."""
    many = decision(estimates={"backlog": 123_456})
    told = scaling_sentence(situation(many, queue=queue_status(ready=10_000)))
    assert told.startswith("about 120,000 messages are ready")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "less than 1 s"),
        (95, "95 s"),
        (1_200, "20 min"),
        (9_000, "2.5 h"),
        (90_000, "25 h"),
        (1_000_000, "12 days"),
    ],
)
def test_durations(seconds: float, text: str):
    """A duration is in the unit that suits its size."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"), [(0.004, "0"), (0.0123, "0.012"), (3.21, "3.2"), (17_123, "17,000")]
)
def test_rates(rate: float, text: str):
    """A rate has two digits."""
    assert rate_text(rate) == text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("the queue is away", "The queue is away."),
        ("spec.scaling: no", "spec.scaling: no."),
        ("Done.", "Done."),
        ("", ""),
    ],
)
def test_sentences(text: str, sentence: str):
    """A sentence has a capital letter and a full stop; the name of a field stays as it is."""
    assert as_sentence(text) == sentence
