"""Writes a report into a document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench import plots, tables, targets
from bench.marked import MarkedPart

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PART = MarkedPart("make bench")
KEYS_PART = MarkedPart("make bench-keys")

Report = dict[str, Any]


def write_document(report: Report, document: Path) -> None:
    """Replace what stands between the markers, and write the plots beside the document.

    Raises:
        ValueError: if the markers are not there.
    """
    PART.check(document)
    PART.replace(document, "\n".join(_markdown(report, document)))


def write_keys(report: Report, document: Path) -> None:
    """Replace what stands between the markers of the queues with keys.

    Raises:
        ValueError: if the markers are not there.
    """
    KEYS_PART.replace(document, "\n".join(_keys_markdown(report)))


def _keys_markdown(report: Report) -> Iterator[str]:
    for line in tables.conditions(report):
        yield f"- {line}"
    yield ""
    yield from _targets(report, targets.KEY_TARGETS)
    yield from tables.markdown(report, of_keys=True)


def _targets(report: Report, of: Sequence[targets.Target]) -> Iterator[str]:
    yield "| what | target | measured | |"
    yield "|---|---|---:|---|"
    for row in targets.rows(report, of):
        yield f"| {' | '.join(row)} |"
    yield ""


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
    yield from _targets(report, targets.TARGETS)
    for plot in plots.draw(report):
        name = f"{document.stem}-{plot.name}.svg"
        document.with_name(name).write_text(plot.svg, encoding="utf-8")
        yield f"![{plot.description}]({name})"
        yield ""
    yield from tables.markdown(report, of_keys=False)
