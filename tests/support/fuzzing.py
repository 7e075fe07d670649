"""Which examples a property tries: the same few each time, or others with MESHHOOK_FUZZ=FACTOR."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants

FACTOR = int(os.environ.get("MESHHOOK_FUZZ", "1"))
CALL_TIMEOUT_SECONDS = 60.0
"""A call that takes longer hangs, whatever else the machine does."""


def load_profile() -> None:
    """Set what holds for every property that sets nothing else."""
    settings.register_profile(
        "meshhook",
        # So that no change fails for another's luck.
        derandomize=FACTOR == 1,
        # Other processes may hold up an example for any time.
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("meshhook")
    if FACTOR == 1:
        # Hypothesis also tries the constants of all modules that happen to be imported, so that
        # the examples of a test would depend on which other tests run.
        assert hasattr(providers, "_get_local_constants")
        providers._get_local_constants = Constants


def examples(count: int) -> settings:
    """Return the settings of a property that tries `count` examples, the same ones every time.

    With a factor it tries that many times as many, and others each time.
    """
    return settings(
        max_examples=count * FACTOR,
        derandomize=FACTOR == 1,
        deadline=None,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.function_scoped_fixture,  # a database serves all examples of a test
        ],
    )
