"""What the metrics of a worker say, as the books need it."""

from __future__ import annotations

import re

_OUTCOMES = re.compile(r"^meshhook_worker_messages_total\{(.*)\} (\S+)$", re.MULTILINE)
_UNSETTLED = re.compile(r"^meshhook_worker_unsettled_messages\{.*\} (\S+)$", re.MULTILINE)


def outcomes_in(text: str, queue_name: str) -> dict[str, int]:
    """Return how often a worker had each outcome of a queue."""
    counts: dict[str, int] = {}
    for labels, value in _OUTCOMES.findall(text):
        found = re.search(r'outcome="(\w+)"', labels)
        if found is not None and f'queue="{queue_name}"' in labels:
            counts[found[1]] = int(float(value))
    return counts


def unsettled_in(text: str) -> int:
    """Return how many outcomes a worker has not recorded yet."""
    return sum(int(float(value)) for value in _UNSETTLED.findall(text))


def claims_in(text: str) -> tuple[float, float]:
    """Return how long all claims of a worker took together, in seconds, and how many there were."""
    seconds, count = (
        sum(
            float(value)
            for labels, value in re.findall(
                rf"^meshhook_worker_operation_duration_seconds_{part}\{{(.*)\}} (\S+)$",
                text,
                re.MULTILINE,
            )
            if 'operation="claim"' in labels
        )
        for part in ("sum", "count")
    )
    return seconds, count
