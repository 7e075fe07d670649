"""From the numbers of each round to medians and ratios."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from plan import BASELINE

if TYPE_CHECKING:
    from collections.abc import Sequence

Round = dict[str, dict[str, Any]]
"""The result of each subject, by its name."""


def summarize(figures: Sequence[str], rounds: Sequence[Round]) -> dict[str, Any]:
    """Return, by subject and figure, the median, and the ratio to raw PGMQ.

    The ratio is the median of the ratios within each round; beside it are the lowest and highest.
    """
    return {
        subject: {
            figure: {
                "median": median(results[subject][figure] for results in rounds),
                **_ratio([r[subject][figure] / r[BASELINE][figure] for r in rounds]),
            }
            for figure in figures
        }
        for subject in rounds[0]
    }


def _ratio(ratios: list[float]) -> dict[str, float]:
    return {
        "ratio": median(ratios),
        "lowest_ratio": min(ratios),
        "highest_ratio": max(ratios),
    }
