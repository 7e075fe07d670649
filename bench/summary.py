"""From the numbers of each round to medians and ratios."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Round = dict[str, dict[str, Any]]
"""The result of each subject, by its name. One whose measurement failed is missing."""


def summarize(
    figures: Sequence[str], rounds: Sequence[Round], against: Sequence[Round] | None = None
) -> dict[str, Any]:
    """Return, by subject and figure, the median, and its ratio to each other subject.

    A ratio is the median of the ratios within each round; beside it are the lowest and highest.

    Args:
        figures: the keys of a result.
        rounds: the results.
        against: the results of the mode that this one is compared with, in the same rounds; each
            subject then also has its ratio to itself there.
    """
    names = list(dict.fromkeys(name for results in rounds for name in results))
    return {
        name: {
            figure: {
                "median": median(r[name][figure] for r in rounds if name in r),
                "ratios": {
                    other: ratio
                    for other in names
                    if other != name
                    and (ratio := _ratio(_pairs(figure, name, rounds, other, rounds)))
                },
                "own_ratio": _ratio(_pairs(figure, name, rounds, name, against or [])),
            }
            for figure in figures
        }
        for name in names
    }


def _pairs(
    figure: str, name: str, rounds: Sequence[Round], other: str, others: Sequence[Round]
) -> Iterable[tuple[float, float]]:
    # A mode may be measured in fewer rounds than the one that it is compared with.
    for results, other_results in zip(rounds, others, strict=False):
        if name in results and other in other_results and figure in other_results[other]:
            yield results[name][figure], other_results[other][figure]


def _ratio(pairs: Iterable[tuple[float, float]]) -> dict[str, float] | None:
    ratios = [value / base for value, base in pairs if base]
    if not ratios:
        return None
    return {"median": median(ratios), "lowest": min(ratios), "highest": max(ratios)}
