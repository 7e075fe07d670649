"""How many examples a property tries: few in `make test`, more with MESHHOOK_FUZZ=FACTOR."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("MESHHOOK_FUZZ", "1"))
CALL_TIMEOUT_SECONDS = 60.0
"""A call that takes longer hangs, whatever else the machine does."""


def examples(count: int) -> settings:
    """Return the settings of a property that tries `count` examples, the same ones every time.

    With a factor it tries that many times as many, and others each time.
    """
    return settings(
        max_examples=count * FACTOR,
        # So that no change fails for another's luck.
        derandomize=FACTOR == 1,
        deadline=None,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.function_scoped_fixture,  # a database serves all examples of a test
        ],
    )
