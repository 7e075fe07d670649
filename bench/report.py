"""The results for people: tables on a console, and the tables of a document."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from machine import QUIET_PERCENT
from plan import BASELINE, FIGURES
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console

BEGIN = "<!-- begin: written by make bench -->"
END = "<!-- end -->"

Report = dict[str, Any]


def show(report: Report, console: Console) -> None:
    """Print the tables."""
    table = Table()
    for number, column in enumerate(_columns(report)):
        table.add_column(column, justify="left" if number < 2 else "right")
    for group, rows in _groups(report):
        table.add_section()
        table.add_row(f"[bold]{group}")
        for row in rows:
            table.add_row(*row)
    console.print(table)
    for line in _conditions(report):
        console.print(line, highlight=False)


def check_document(document: Path) -> None:
    """Look for the markers of a document.

    Raises:
        ValueError: if they are not there.
    """
    text = document.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text.split(BEGIN, 1)[1]:
        raise ValueError(f"{document} needs the lines {BEGIN} and {END}; the figures go between")


def write(report: Report, document: Path) -> None:
    """Replace what stands between the markers of a document.

    Raises:
        ValueError: if the markers are not there.
    """
    check_document(document)
    before, rest = document.read_text(encoding="utf-8").split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    figures = "\n".join(_markdown(report))
    document.write_text(f"{before}{BEGIN}\n\n{figures}\n\n{END}{after}", encoding="utf-8")


def _markdown(report: Report) -> Iterator[str]:
    for line in _conditions(report):
        yield f"- {line}"
    columns = _columns(report)
    for group, rows in _groups(report):
        yield ""
        yield f"### {group}"
        yield ""
        yield "; ".join(_state(subject) for subject in report["subjects"]) + "."
        yield ""
        yield f"| {' | '.join(columns)} |"
        yield f"|---|---|{'---:|' * (len(columns) - 2)}"
        for row in rows:
            yield f"| {' | '.join(row)} |"


def _conditions(report: Report) -> Iterator[str]:
    machine, versions = report["machine"], report["versions"]
    settings = report["postgresql_settings"]
    rounds = report["rounds"]
    yield (
        f"Measured on {report['date'][:10]} in {rounds} round{'s' if rounds > 1 else ''}, "
        f"size {report['size']}."
    )
    if not report["quiet"]:
        busiest = max(report["other_cpu_percent"])
        yield (
            f"NOT A QUIET MACHINE: other programs used up to {busiest:.0f}% of the processor. "
            "The figures are too low; ratios hold better than absolute figures."
        )
    yield (
        f"Machine: {machine['cpu_model']}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB of memory, {machine['file_system']}, "
        f"{machine['system']}; benchmark and database share it."
    )
    yield (
        f"PostgreSQL {versions['postgresql']} (fsync {settings['fsync']}, synchronous_commit "
        f"{settings['synchronous_commit']}, shared_buffers {settings['shared_buffers']}), "
        f"PGMQ {versions['pgmq']}, Python {versions['python']} with uvloop {versions['uvloop']}, "
        f"asyncpg {versions['asyncpg']}, MeshHook Queue {versions['meshhook']}."
    )
    for subject in report["subjects"]:
        yield f"{_state(subject)}; {subject['note']}."
    yield (
        "Figures are medians of the rounds. A ratio is that to raw PGMQ in the same round: the "
        "median, and the lowest to the highest where there are several rounds."
    )


def _columns(report: Report) -> list[str]:
    subjects = report["subjects"]
    titles = [subject["title"] for subject in subjects]
    peers = [subject["title"] for subject in subjects if subject["name"] != BASELINE]
    ratios = ["ratio"] if len(peers) == 1 else [f"ratio of {title}" for title in peers]
    return ["measure", "figure", *titles, *ratios]


def _state(subject: dict[str, Any]) -> str:
    tracking, metrics = ("on" if subject[name] else "off" for name in ("tracking", "metrics"))
    if tracking == metrics:
        return f"{subject['title']}: tracking and metrics {tracking}"
    return f"{subject['title']}: tracking {tracking}, metrics {metrics}"


def _groups(report: Report) -> Iterator[tuple[str, list[list[str]]]]:
    for group, measures in groupby(report["measures"], key=lambda measure: measure["group"]):
        yield group, [row for measure in measures for row in _rows(report, measure)]


def _rows(report: Report, measure: dict[str, Any]) -> Iterator[list[str]]:
    names = [subject["name"] for subject in report["subjects"]]
    for figure in next(iter(measure["summary"].values())):
        cells = {name: measure["summary"][name][figure] for name in names}
        yield [
            measure["title"],
            FIGURES[figure],
            *(_number(cells[name]["median"]) for name in names),
            *(_ratio(cells[name], report["rounds"]) for name in names if name != BASELINE),
        ]


def _ratio(cell: dict[str, float], rounds: int) -> str:
    if rounds == 1:
        return f"{cell['ratio']:.2f}"
    return f"{cell['ratio']:.2f} ({cell['lowest_ratio']:.2f} to {cell['highest_ratio']:.2f})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def is_quiet(other_cpu_percent: list[float]) -> bool:
    """Say whether others left the machine to the benchmark."""
    return max(other_cpu_percent) <= QUIET_PERCENT
