"""Writes a report into a document, between two markers; what people wrote around them stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plots
import tables
import targets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BEGIN = "<!-- begin: written by make bench -->"
END = "<!-- end -->"

Report = dict[str, Any]


def check_document(document: Path) -> None:
    """Look for the markers of a document.

    Raises:
        ValueError: if they are not there.
    """
    text = document.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text.split(BEGIN, 1)[1]:
        raise ValueError(f"{document} needs the lines {BEGIN} and {END}; the figures go between")


def write_document(report: Report, document: Path) -> None:
    """Replace what stands between the markers, and write the plots beside the document.

    Raises:
        ValueError: if the markers are not there.
    """
    check_document(document)
    before, rest = document.read_text(encoding="utf-8").split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    figures = "\n".join(_markdown(report, document))
    document.write_text(f"{before}{BEGIN}\n\n{figures}\n{END}{after}", encoding="utf-8")


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
