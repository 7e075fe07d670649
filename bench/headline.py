"""The few figures that a README shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.document import PART
from bench.mode import OWN
from bench.tables import number

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Report = dict[str, Any]

_RATE = "per_second", "/s"
_FIGURES = (
    ("drain, no-op handler, 256 B, one process", "drain_small", *_RATE),
    ("drain, no-op handler, real 8 KB webhooks", "drain_webhooks", *_RATE),
    ("bulk enqueue, 1,000 a call, 256 B", "enqueue_many_small", *_RATE),
    ("single enqueue, durable, 1 caller", "enqueue_1", *_RATE),
    ("single enqueue, durable, 64 callers", "enqueue_64", *_RATE),
    ("idle pickup, p50", "pick_up", "p50_ms", " ms"),
    ("end to end at 800 jobs/s, p99", "end_to_end_small", "p99_ms", " ms"),
    ("drain, 1M delayed messages in front", "delayed_1000000", *_RATE),
)
"""What it is, the mode, the figure, and its unit."""


def write_headline(report: Report, document: Path) -> None:
    """Replace what stands between the markers of a document.

    Raises:
        ValueError: if the markers are not there.
    """
    PART.replace(document, "\n".join(_markdown(report)) + "\n")


def _markdown(report: Report) -> Iterator[str]:
    summaries = {mode["mode"]: mode["summary"] for mode in report["modes"]}
    # The own figures first.
    subjects = sorted(report["subjects"], key=lambda subject: subject["name"] != OWN)
    yield f"| | {' | '.join(subject['title'] for subject in subjects)} |"
    yield f"|---|{'---:|' * len(subjects)}"
    for what, mode, figure, unit in _FIGURES:
        cells = summaries.get(mode, {})
        if cells:
            shown = (_cell(cells.get(subject["name"]), figure, unit) for subject in subjects)
            yield f"| {what} | {' | '.join(shown)} |"


def _cell(figures: dict[str, Any] | None, figure: str, unit: str) -> str:
    return f"{number(figures[figure]['median'])}{unit}" if figures else ""
