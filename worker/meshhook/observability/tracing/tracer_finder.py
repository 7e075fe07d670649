"""Finding the tracer: that of a provider, or of the global one once it is set."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.trace import NoOpTracerProvider, ProxyTracerProvider

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer, TracerProvider

LOOK_AGAIN_SECONDS = 1.0


class TracerFinder:
    """Finds the tracer to use; None while there is no provider."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        """Take a provider. None: the global one, as soon as one is set."""
        self._tracer = None if provider is None else _tracer_of(provider)
        self._looked_at = float("-inf")

    def find(self) -> Tracer | None:
        """Return the tracer; asks for a global provider at most once a second."""
        if self._tracer is None:
            now = time.monotonic()
            if now - self._looked_at >= LOOK_AGAIN_SECONDS:
                self._looked_at = now
                self._tracer = _tracer_of(trace.get_tracer_provider())
        return self._tracer


def _tracer_of(provider: TracerProvider) -> Tracer | None:
    if isinstance(provider, ProxyTracerProvider | NoOpTracerProvider):
        return None
    return provider.get_tracer("meshhook", version("meshhook-queue"))
