"""The figures as pictures: SVG whose text is text, to be read on a light and on a dark page."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from bench.mode import BASELINE, OWN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes

Report = dict[str, Any]

# Both can be read on white and on near-black, for viewers that know no colour scheme.
_INK = "#7a7a7a"
_OTHERS = "#8c959f"
_OWN = "#2f81f7"
_BASE = "#db6d28"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "meshhook",  # the same report gives the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.color": _INK,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
}
_SCHEMES = """<style>
text { font-family: system-ui, sans-serif !important }
@media (prefers-color-scheme: light) { text { fill: #1f2328 !important } }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 !important } }
</style>
"""


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture."""

    name: str
    description: str
    svg: str


def draw(report: Report) -> Iterator[Plot]:
    """Return the pictures of what was measured."""
    modes = {mode["mode"]: mode for mode in report["modes"]}
    with mpl.rc_context(_STYLE):
        if "drain_small" in modes:
            yield Plot("systems", _SYSTEMS, _systems(report, modes))
        if any(mode.startswith(("delayed_", "connections_", "held_")) for mode in modes):
            yield Plot("degradation", _DEGRADATION, _degradation(report, modes))


_SYSTEMS = "Bars: jobs a second and milliseconds of each system, from the tables below"
_DEGRADATION = "Lines: jobs a second of raw PGMQ and MeshHook Queue with something in the way"
_PANELS = (
    ("drain_small", "per_second", "drain, 256 B, no-op: jobs/s"),
    ("drain_webhooks", "per_second", "drain, real 8 KB: jobs/s"),
    ("enqueue_many_small", "per_second", "bulk enqueue, 256 B: jobs/s"),
    ("enqueue_64", "per_second", "single enqueue, 64 callers: jobs/s"),
    ("pick_up", "p99_ms", "idle pickup p99: ms, log scale, less is better"),
    ("end_to_end_small", "p99_ms", "end to end p99 at 800/s: ms, log scale"),
)


def _systems(report: Report, modes: dict[str, Any]) -> str:
    panels = [panel for panel in _PANELS if panel[0] in modes]
    height = 0.5 + 0.24 * len(report["subjects"])
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(9, rows * (height + 0.5)), layout="constrained")
    for number, (mode, key, title) in enumerate(panels):
        axes = figure.add_subplot(rows, 2, number + 1)
        summary = modes[mode]["summary"]
        shown = [s for s in report["subjects"] if s["name"] in summary][::-1]
        values = [summary[s["name"]][key]["median"] for s in shown]
        bars = axes.barh(
            [s["title"] for s in shown], values, color=[_colour(s["name"]) for s in shown]
        )
        axes.bar_label(bars, [_short(value) for value in values], padding=3)
        if key == "p99_ms":
            axes.set_xscale("log")
        axes.margins(x=0.15)
        axes.set_title(title)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
    return _svg(figure)


def _degradation(report: Report, modes: dict[str, Any]) -> str:
    titles = {s["name"]: s["title"] for s in report["subjects"]}
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    panels: list[tuple[str, str, str]] = [
        ("delayed_", "drain behind delayed messages: jobs/s", "delayed messages in front"),
        ("connections_", "connections that claim: jobs/s", "connections"),
    ]
    for number, (prefix, title, label) in enumerate(panels):
        axes = figure.add_subplot(2, 2, number + 1)
        found = {int(m.removeprefix(prefix)): modes[m] for m in modes if m.startswith(prefix)}
        for name in (BASELINE, OWN):
            points = [
                (count, mode["summary"][name]["per_second"]["median"])
                for count, mode in found.items()
                if name in mode["summary"]
            ]
            _line(axes, range(len(points)), [y for _, y in points], name, titles)
        axes.set_xticks(range(len(found)), [_short(count) for count in found])
        _finish(axes, title, label)
    for number, (mode, title) in enumerate(
        (("held_800", "id held, 800 jobs/s offered"), ("held_full_speed", "id held, full speed"))
    ):
        if mode not in modes:
            continue
        axes = figure.add_subplot(2, 2, number + 3)
        seconds = modes[mode]["parameters"]["window_seconds"]
        for name in (BASELINE, OWN):
            results = modes[mode]["rounds"][-1].get(name)
            if results:
                windows = [results["baseline_per_second"], *results["windows"]]
                _line(axes, [i * seconds for i in range(len(windows))], windows, name, titles)
        _finish(axes, f"{title}: jobs/s", "seconds for which it is held")
    return _svg(figure)


def _line(
    axes: Axes, x: Sequence[float], y: Sequence[float], name: str, titles: dict[str, str]
) -> None:
    axes.plot(x, y, marker="o", markersize=3, color=_colour(name), label=titles.get(name, name))


def _finish(axes: Axes, title: str, label: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(label)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.legend()


def _colour(name: str) -> str:
    return {OWN: _OWN, BASELINE: _BASE}.get(name, _OTHERS)


def _short(value: float) -> str:
    if value >= 1_000_000:
        return f"{value / 1_000_000:.3g}M"
    if value >= 10_000:
        return f"{value / 1_000:.0f}k"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    head, rest = buffer.getvalue().split("<defs>", 1)
    return f"{head}{_SCHEMES}<defs>{rest}"
