"""The report of a run: a file in JSON that is written anew after each trace."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.machine import describe_machine
from support.cluster.programs import version

if TYPE_CHECKING:
    from bench.node.measurements import Figures
    from bench.node.observations import Observations
    from bench.scaling.jobs import JobTrace

FORMAT = 1
"""The version of the JSON's shape."""
Report = dict[str, Any]


def new_report(*, revision: str, lanes: int) -> Report:
    """Return a report without any trace."""
    return {
        "format": FORMAT,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": revision,
        "machine": describe_machine(Path(__file__).parent),
        "kubernetes": version("kube-apiserver"),
        "lanes": lanes,
        "traces": {},
        "failed": {},
    }


def read_report(file: Path) -> Report:
    """Return the report in a file.

    Raises:
        ValueError: it is none, or one of another version.
    """
    report: Report = json.loads(file.read_text(encoding="utf-8"))
    found = report.get("format") if isinstance(report, dict) else None
    if found != FORMAT:
        raise ValueError(f"{file} has the format {found!r}, and this program reads {FORMAT}")
    return report


def write_report(report: Report, file: Path) -> None:
    """Write a report to a file, which is never seen half written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(file)


def add_trace(report: Report, trace: JobTrace, figures: Figures, seen: Observations) -> None:
    """Add what came of a trace; attempts are left out, as there are thousands."""
    report["failed"].pop(trace.name, None)
    report["traces"][trace.name] = {
        "seconds": trace.seconds,
        "figures": asdict(figures),
        "history": [
            [each.second, each.waiting, each.running, each.replicas, each.ready_pods]
            for each in seen.history
        ],
        "pods": [
            [each.name, *map(_rounded, (each.created, each.ready, each.stopped, each.gone))]
            for each in seen.pods
        ],
        "decisions": [[each.second, each.message] for each in seen.decisions],
    }


def write_raw(trace: JobTrace, seen: Observations, directory: Path) -> None:
    """Write everything that was noted of a trace to a file of a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(seen) | {"trace": trace.name})
    (directory / f"{trace.name.replace(' ', '-')}.json").write_text(text, encoding="utf-8")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
