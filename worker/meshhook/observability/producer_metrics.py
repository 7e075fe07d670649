"""What a producer tells about itself: how many messages it has enqueued."""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import REGISTRY, CollectorRegistry, Counter

from meshhook.observability.families import families_of


@lru_cache(maxsize=1_024)
def messages_enqueued(queue_name: str, registry: CollectorRegistry = REGISTRY) -> Counter:
    """Return the counter of the messages that this process has enqueued into a queue."""
    counter = families_of(registry).counter("meshhook_producer_messages_total")
    return counter.labels(queue_name)
