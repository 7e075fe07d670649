"""Writes a report into a document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench import plots, tables, targets
from bench.marked import MarkedPart

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PART = MarkedPart("make bench")

Report = dict[str, Any]


def write_document(report: Report, document: Path) -> None:
    """Replace what stands between the markers, and write the plots beside the document.

    Raises:
        ValueError: if the markers are not there.
    """
    PART.check(document)
    PART.replace(document, "\n".join(_markdown(report, document)))


def _markdown(report: Report, document: Path) -> Iterator[str]:
    yield "### Conditions"
    yield ""
    for line in tables.conditions(report):
        yield f"- {line}"
    yield (
        "- Figures are medians of the rounds; ratios are taken within a round. For jobs a second"
        " more is better, for all else less."
    )
    yield ""
    yield "### Targets"
    yield ""
    yield "Ratios are MeshHook Queue's figure divided by the other. A miss is explained below."
    yield ""
    yield "| what | target | measured | |"
    yield "|---|---|---:|---|"
    for row in targets.rows(report):
        yield f"| {' | '.join(row)} |"
    yield ""
    for plot in plots.draw(report):
        name = f"{document.stem}-{plot.name}.svg"
        document.with_name(name).write_text(plot.svg, encoding="utf-8")
        yield f"![{plot.description}]({name})"
        yield ""
    yield from tables.markdown(report)
