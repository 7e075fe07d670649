"""The figures as rows: for a console, and for a document."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.table import Table

from bench.key_plan import COMPARED_KEY_GROUPS, KEY_GROUPS
from bench.machine import QUIET_PERCENT
from bench.mode import OWN
from bench.plan import FIGURES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

Report = dict[str, Any]
Mode = dict[str, Any]


def show(report: Report, console: Console) -> None:
    """Print all tables, and under which conditions they came about."""
    for group, modes in _groups(report):
        table = Table(title=group, title_justify="left")
        for number, column in enumerate(columns(report, modes)):
            table.add_column(column, justify="left" if number < 2 else "right")
        for row in rows(report, modes):
            table.add_row(*row)
        console.print(table)
    for line in conditions(report):
        console.print(line, highlight=False, markup=False)


def markdown(report: Report, *, of_keys: bool) -> Iterator[str]:
    """Return the lines of all tables: of queues with keys, or of all else."""
    for group, modes in _groups(report):
        if (group in KEY_GROUPS) != of_keys:
            continue
        head = columns(report, modes)
        yield f"### {group}"
        yield ""
        yield "; ".join(state(s) for s in report["subjects"] if s["name"] in _names(modes)) + "."
        yield _legend(modes)
        yield ""
        yield f"| {' | '.join(head)} |"
        yield f"|---|---|{'---:|' * (len(head) - 2)}"
        for row in rows(report, modes):
            yield f"| {' | '.join(row)} |"
        yield ""


def conditions(report: Report) -> Iterator[str]:
    """Return what a reader must know beside the figures, a sentence or two a line."""
    machine, versions = report["machine"], report["versions"]
    settings = report["postgresql_settings"]
    rounds = report["rounds"]
    yield (
        f"Measured on {report['date'][:10]} in {rounds} round{'s' if rounds > 1 else ''}, "
        f"size {report['size']}, in {report['seconds'] / 60:.0f} minutes."
    )
    if not report["quiet"]:
        busiest = max(report["other_cpu_percent"])
        yield (
            f"NOT A QUIET MACHINE: other programs used up to {busiest:.0f}% of the processor "
            f"(quiet is up to {QUIET_PERCENT:.0f}%). "
            "The figures are too low; ratios hold better than absolute figures."
        )
    yield (
        f"Machine: {machine['cpu_model']}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB of memory, {machine['file_system']}, "
        f"{machine['system']}; benchmark and database share it."
    )
    yield (
        f"PostgreSQL {versions['postgresql']} ("
        + ", ".join(f"{name} {value}" for name, value in settings.items())
        + f"), PGMQ {versions.get('pgmq', 'not used')}, asyncpg {versions['asyncpg']}, "
        f"uvloop {versions['uvloop']}."
    )
    for subject in report["subjects"]:
        version = versions.get(_PACKAGES.get(subject["name"], subject["name"]))
        yield f"{state(subject)}; version {version}, Python {subject['python']}; {subject['note']}."
    for name, reason in report["left_out"].items():
        yield f"{name} is left out: {reason}"
    if report["skipped"]:
        yield f"Left out, since the time was up: {', '.join(report['skipped'])}."
    for failure in report["failures"]:
        yield f"FAILED, and left out: {failure}"


_PACKAGES = {"awa": "awa-pg"}
"""Where a subject's package has another name."""


def state(subject: dict[str, Any]) -> str:
    """Say which of tracking, metrics and tracing are on."""
    on = [what for what in ("tracking", "metrics", "tracing") if subject[what]]
    off = [what for what in ("tracking", "metrics", "tracing") if not subject[what]]
    parts = [f"{_joined(what)} {word}" for what, word in ((on, "on"), (off, "off")) if what]
    return f"{subject['title']}: {', '.join(parts)}"


def columns(report: Report, modes: list[Mode]) -> list[str]:
    """Return the heads of the columns of one group."""
    names = _names(modes)
    return ["measure", "figure", *(s["title"] for s in report["subjects"] if s["name"] in names)]


def rows(report: Report, modes: list[Mode]) -> Iterator[list[str]]:
    """Return the cells of one group."""
    names = [s["name"] for s in report["subjects"] if s["name"] in _names(modes)]
    for mode in modes:
        for figure in mode["figures"]:
            yield [
                mode["title"],
                FIGURES[figure],
                *(_cell(mode, name, figure) for name in names),
            ]


def _cell(mode: Mode, name: str, figure: str) -> str:
    if name not in mode["summary"]:
        return "failed"
    cell = mode["summary"][name][figure]
    ratio = _shown_ratio(mode, name, figure)
    text = number(cell["median"])
    if ratio is None:
        return text
    if ratio["lowest"] == ratio["highest"]:
        return f"{text} ({ratio['median']:.2f})"
    return f"{text} ({ratio['median']:.2f}; {ratio['lowest']:.2f} to {ratio['highest']:.2f})"


def _shown_ratio(mode: Mode, name: str, figure: str) -> dict[str, float] | None:
    if mode["own_ratio"]:
        return None
    ratio: dict[str, float] | None
    if mode["against"]:
        ratio = (
            mode["summary"][name][figure]["own_ratio"] if mode["against"] != mode["mode"] else None
        )
    else:
        # Told from the other side: how MeshHook Queue compares with each.
        own = mode["summary"].get(OWN)
        ratio = own[figure]["ratios"].get(name) if own else None
    return ratio


def _legend(modes: list[Mode]) -> str:
    if modes[0]["group"] in COMPARED_KEY_GROUPS:
        return "In brackets: the figure divided by that of a queue without keys or limit."
    if modes[0]["group"] in KEY_GROUPS:
        return "Medians of the rounds."
    if modes[0]["own_ratio"]:
        return "The lowest window is that with the fewest jobs while the id was held."
    if modes[0]["against"]:
        return "In brackets: the figure divided by the same subject's with nothing in the way."
    return (
        "In brackets: MeshHook Queue's figure divided by this one, and its range over the rounds."
    )


def _groups(report: Report) -> Iterator[tuple[str, list[Mode]]]:
    for group, modes in groupby(report["modes"], key=lambda mode: mode["group"]):
        yield group, list(modes)


def _names(modes: list[Mode]) -> set[str]:
    return {name for mode in modes for name in mode["summary"]}


def number(value: float) -> str:
    """Return a figure as people read it."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _joined(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
