"""How many examples a property tries: few in `make test`, many with MESHHOOK_FUZZ=long."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

IS_LONG = os.environ.get("MESHHOOK_FUZZ") == "long"
LONG_FACTOR = 50
CALL_TIMEOUT_SECONDS = 60.0
"""A call that takes longer hangs, whatever else the machine does."""


def examples(count: int) -> settings:
    """Return the settings of a property that tries `count` examples, the same ones every time.

    In the long form it tries fifty times as many, others each time.
    """
    return settings(
        max_examples=count * LONG_FACTOR if IS_LONG else count,
        # So that no change fails for another's luck.
        derandomize=not IS_LONG,
        deadline=None,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.function_scoped_fixture,  # a database serves all examples of a test
        ],
    )
