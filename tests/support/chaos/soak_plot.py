"""The samples of an endurance run as a picture: SVG, to be read on a light and on a dark page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

# Both can be read on white and on near-black.
_INK, _LINE = "#7a7a7a", "#2f81f7"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "meshhook",  # the same samples give the same file
    "font.size": 9,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.color": _INK,
}
_PANELS = (
    ("worker_bytes", 1 << 20, "memory of a worker, MiB"),
    ("queue_table_bytes", 1 << 20, "table of the queue, MiB"),
    ("queue_index_bytes", 1 << 20, "its indexes, MiB"),
    ("claim_ms", 1, "time of a claim, ms"),
)


def draw(samples: Sequence[Mapping[str, float]]) -> str:
    """Return the picture."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 4.6), layout="constrained")
        minutes = [sample["at_seconds"] / 60 for sample in samples]
        for axes, (name, unit, title) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
            axes.plot(minutes, [sample[name] / unit for sample in samples], color=_LINE)
            axes.set_ylim(bottom=0)
            axes.set_title(title)
            axes.set_xlabel("minutes")
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()
