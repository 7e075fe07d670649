"""From windows with viewers of the console, and those without any, to ratios and tables."""

from __future__ import annotations

import json
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from bench.mode import OWN
from bench.targets import CONSOLE_TARGETS, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KINDS = ("streams", "polls")
"""The windows with viewers: pages that listen to ticks, and pages that ask by themselves."""
ALONE = "alone"
TITLES = {
    ALONE: "viewers of another server only",
    "streams": "pages that listen to ticks",
    "polls": "pages that ask by themselves",
}
RATE_TOLERANCE = 0.02
"""By how much the rates of windows that are compared may differ."""


@dataclass(frozen=True, slots=True)
class Window:
    """What happened within a while."""

    kind: str
    seconds: float
    jobs: int
    """That ran."""
    jobs_waiting: int
    """That were enqueued and had not run at its end."""
    database_cpu_seconds: float
    console_cpu_seconds: float
    """Of that, what the console's sessions used."""
    console_statements: int
    pages_loaded: int

    @property
    def jobs_per_second(self) -> float:
        """The rate at which jobs ran."""
        return self.jobs / self.seconds

    @property
    def cpu_per_job(self) -> float:
        """Seconds of the database's work."""
        return self.database_cpu_seconds / max(1, self.jobs)


def compared(windows: list[Window]) -> dict[str, Any]:
    """Return the figures of each kind of window, and which were dropped.

    Args:
        windows: as they were measured; before and after each with viewers is one without.
    """
    ratios: dict[str, list[float]] = {kind: [] for kind in (ALONE, *KINDS)}
    added: dict[str, list[float]] = {kind: [] for kind in (ALONE, *KINDS)}
    kept: dict[str, list[Window]] = {kind: [] for kind in (ALONE, *KINDS)}
    dropped = []
    for number, window in enumerate(windows):
        if window.kind == ALONE:
            continue
        before, after = windows[number - 1], windows[number + 1]
        rates = [each.jobs_per_second for each in (before, window, after)]
        if max(rates) > (1 + RATE_TOLERANCE) * min(rates):
            shown = ", ".join(f"{rate:.1f}" for rate in rates)
            dropped.append(f"{TITLES[window.kind]}: before it, in it and after it {shown} jobs/s")
            continue
        alone = fmean((before.cpu_per_job, after.cpu_per_job))
        ratios[window.kind].append(window.cpu_per_job / alone)
        added[window.kind].append(window.console_cpu_seconds / max(1, window.jobs) / alone)
        # What noise alone comes to.
        ratios[ALONE].append(after.cpu_per_job / before.cpu_per_job)
        kept[window.kind].append(window)
        kept[ALONE] += [each for each in (before, after) if each not in kept[ALONE]]
    return {
        "dropped": dropped,
        "subjects": [],
        "modes": [
            {"mode": kind, "summary": {OWN: _summary(kept[kind], ratios[kind], added[kind])}}
            for kind in (ALONE, *KINDS)
            if kept[kind]
        ],
    }


def _summary(windows: list[Window], ratios: list[float], added: list[float]) -> dict[str, Any]:
    def of(figure: Callable[[Window], float]) -> dict[str, Any]:
        return {"median": median(map(figure, windows)), "ratios": {}, "own_ratio": None}

    work = of(lambda each: each.cpu_per_job * 1e6)
    work["own_ratio"] = {"median": median(ratios), "lowest": min(ratios), "highest": max(ratios)}
    return {
        "windows": len(windows),
        "jobs_per_second": of(lambda each: each.jobs_per_second),
        "database_cpu_us_per_job": work,
        "console_cpu_share": {"median": median(added or [0.0]), "ratios": {}, "own_ratio": None},
        "console_statements_per_second": of(lambda e: e.console_statements / e.seconds),
        "pages_per_second": of(lambda each: each.pages_loaded / each.seconds),
    }


def lines(report: dict[str, Any]) -> Iterator[str]:
    """Return a JSON object for each kind of windows."""
    for mode in report["modes"]:
        summary = dict(mode["summary"][OWN])
        number, ratio = summary.pop("windows"), summary["database_cpu_us_per_job"]["own_ratio"]
        medians = {figure: round(each["median"], 4) for figure, each in summary.items()}
        yield json.dumps({"viewers": mode["mode"], "windows": number} | medians | {"ratio": ratio})


def tables(report: dict[str, Any]) -> dict[str, list[list[str]]]:
    """Return the tables of a report: for each title its head and its rows.

    `us/job` is the processor time of the database for a job. `ratio` is to that without viewers;
    of windows without any it is that of neighbours: noise. `low` and `high` are its range. `own` is
    what the console's sessions used, in parts of the work without viewers, and `calls/s` are their
    statements.
    """
    figures = [_cells(mode["mode"], mode["summary"][OWN]) for mode in report["modes"]]
    options = report["options"]
    head = [
        "viewers",
        "windows",
        "jobs/s",
        "us/job",
        "ratio",
        "low",
        "high",
        "own",
        "calls/s",
        "pages/s",
    ]
    return {
        f"{options['viewers']} viewers of the overview at {options['rate']:g} jobs/s": [
            head,
            *figures,
        ],
        "Targets": [["what", "target", "measured", ""], *rows(report, CONSOLE_TARGETS)],
    }


def _cells(kind: str, summary: dict[str, Any]) -> list[str]:
    ratio = summary["database_cpu_us_per_job"]["own_ratio"]
    return [
        kind if kind in KINDS else "none",
        str(summary["windows"]),
        f"{summary['jobs_per_second']['median']:.1f}",
        f"{summary['database_cpu_us_per_job']['median']:.0f}",
        f"{ratio['median']:.3f}",
        f"{ratio['lowest']:.3f}",
        f"{ratio['highest']:.3f}",
        f"{summary['console_cpu_share']['median']:.2%}",
        f"{summary['console_statements_per_second']['median']:.2f}",
        f"{summary['pages_per_second']['median']:.1f}",
    ]


def said(window: Window) -> str:
    """Return how a window went."""
    return (
        f"{TITLES[window.kind]}: {window.jobs_per_second:.1f} jobs/s, "
        f"{window.cpu_per_job * 1e6:.0f} us/job, {window.jobs_waiting} waiting, "
        f"{window.console_statements} statements of the console, {window.pages_loaded} pages"
    )
