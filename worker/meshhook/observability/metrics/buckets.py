"""The upper bounds of histograms."""

from __future__ import annotations

from typing import Final

JOB_SECONDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30),
    *(60, 120, 300, 600, 1800, 3600),
)
"""Buckets for waiting and running times of jobs: a millisecond to an hour."""
PRIORITY_SECONDS: Final = (0.1, 0.5, 1, 5, 15, 60, 300, 600, 3600)
"""Buckets for waiting times by priority: few, since there are four series a queue."""
STATEMENT_SECONDS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
"""Buckets for statements and decisions: half a millisecond to the longest statement timeout."""
BATCH_MESSAGES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Buckets for the number of messages in a statement."""
