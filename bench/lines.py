"""The results as JSON, one object a line: for a program, or for a glance."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bench.mode import BASELINE

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAMES = {"per_second": "rate", "p50_ms": "p50", "p99_ms": "p99"}


def lines(report_mode: dict[str, Any], subjects: list[dict[str, Any]]) -> Iterator[str]:
    """Return one line a subject of one mode.

    `rate` is jobs a second, `p50` and `p99` are milliseconds. `ratio` is that of the first figure
    to what `ratio_to` names: raw PGMQ, another mode of the same subject, or its own rate before.
    `ratios` are those to every other subject.
    """
    figures = report_mode["figures"]
    first = figures[0]
    by_name = {subject["name"]: subject for subject in subjects}
    for name, cells in report_mode["summary"].items():
        ratio, ratio_to = _ratio(report_mode, name)
        yield json.dumps(
            {
                "mode": report_mode["mode"],
                "system": name,
                **{_NAMES.get(f, f): _rounded(cells[f]["median"]) for f in figures},
                "ratio": ratio,
                "ratio_to": ratio_to,
                "ratios": {
                    other: _rounded(cell["median"])
                    for other, cell in cells[first]["ratios"].items()
                },
                **{what: by_name[name][what] for what in ("tracking", "metrics", "tracing")},
            }
        )


def _ratio(report_mode: dict[str, Any], name: str) -> tuple[float | None, str]:
    cells = report_mode["summary"][name]
    if figure := report_mode["own_ratio"]:
        return _rounded(cells[figure]["median"]), "its own rate before"
    first = cells[report_mode["figures"][0]]
    if report_mode["against"]:
        own = first["own_ratio"]
        return (_rounded(own["median"]) if own else None), report_mode["against"]
    if name == BASELINE:
        return 1.0, BASELINE
    base = first["ratios"].get(BASELINE)
    return (_rounded(base["median"]) if base else None), BASELINE


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
