"""Help for testing handlers and producers, without a database or with one per test.

`run_job` and `run_batch` need no database. `QueueDatabase` is what the fixture `meshhook_database`
of the pytest plugin returns. Only the plugin needs pytest.
"""

from __future__ import annotations

# As in `meshhook` itself: a name is imported when it is first asked for.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from meshhook.outcomes import AttemptOutcome
    from meshhook.testing.attempts import AttemptResult, make_job, run_job
    from meshhook.testing.batches import run_batch
    from meshhook.testing.database import QueueDatabase
    from meshhook.testing.databases import Databases
    from meshhook.testing.draining import Drained, DrainError, JobFailedError, RecordedAttempt
    from meshhook.testing.enqueued import EnqueuedJob
    from meshhook.testing.key_rings import make_key_ring

__all__ = [
    "AttemptOutcome",
    "AttemptResult",
    "Databases",
    "DrainError",
    "Drained",
    "EnqueuedJob",
    "JobFailedError",
    "QueueDatabase",
    "RecordedAttempt",
    "make_job",
    "make_key_ring",
    "run_batch",
    "run_job",
]

_HOMES = {
    "AttemptOutcome": "meshhook.outcomes",
    "AttemptResult": "meshhook.testing.attempts",
    "Databases": "meshhook.testing.databases",
    "DrainError": "meshhook.testing.draining",
    "Drained": "meshhook.testing.draining",
    "EnqueuedJob": "meshhook.testing.enqueued",
    "JobFailedError": "meshhook.testing.draining",
    "QueueDatabase": "meshhook.testing.database",
    "RecordedAttempt": "meshhook.testing.draining",
    "make_job": "meshhook.testing.attempts",
    "make_key_ring": "meshhook.testing.key_rings",
    "run_batch": "meshhook.testing.batches",
    "run_job": "meshhook.testing.attempts",
}
"""The module of each name; the imports above say the same to type checkers."""


def __getattr__(name: str) -> Any:
    """Import a public name. Raises AttributeError for any other."""
    if name not in _HOMES:
        raise AttributeError(f"module 'meshhook.testing' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - for the same reason

    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    """Return the public names, and what a module always has."""
    return sorted({*globals(), *__all__})
