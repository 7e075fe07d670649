"""Pictures of the simulation, as SVG. The same figures give the same bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl

from bench.scaling.contract import Policy
from bench.scaling.keda_policy import tuned
from bench.scaling.meshhook_policy import MeshHook
from bench.scaling.oracle_policy import Oracle
from bench.scaling.results import NAMES, Row
from bench.scaling.traces import traces
from bench.scaling.world import World, run

mpl.use("svg")
mpl.rcParams |= {"svg.hashsalt": "meshhook", "font.size": 9, "axes.spines.top": False}

import matplotlib.pyplot as plt  # noqa: E402 - after the backend was chosen

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

AGE_SECONDS = 60
COLOURS = {"meshhook": "#0072b2", "keda tuned": "#d55e00", "oracle": "#009e73", "keda": "#999999"}
POLICIES: dict[str, Callable[[World], Policy[World]]] = {
    "meshhook": MeshHook,
    "keda tuned": tuned,
    "oracle": Oracle,
}
SHOWN = ("step", "departures", "spike")


def draw(folder: Path, rows: list[Row]) -> None:
    """Write `scaling-replicas.svg` and `scaling-late.svg` into a folder."""
    _replicas(folder / "scaling-replicas.svg")
    _late(folder / "scaling-late.svg", rows)


def _replicas(file: Path) -> None:
    """Draw the replicas over time while the rate of a replica halves."""
    by_name = {trace.name: trace for trace in traces(1)}
    figure, axes = plt.subplots(len(SHOWN), 1, figsize=(8, 7), sharex=True, layout="constrained")
    for name, axis in zip(SHOWN, axes, strict=True):
        for policy, make in POLICIES.items():
            world = World(
                by_name[name],
                seed=1,
                speed=lambda second: 1.0 if second < 2_000 else 0.5,
                target_age_seconds=AGE_SECONDS,
            )
            history = run(world, make(world)).history
            minutes = [second / 60 for second, _, _ in history]
            replicas = [count for _, count, _ in history]
            axis.step(
                minutes, replicas, where="post", label=NAMES[policy], color=COLOURS[policy], lw=1
            )
        axis.set_title(name, loc="left")
        axis.set_ylabel("replicas")
    axes[0].legend(frameon=False)
    axes[-1].set_xlabel("minutes; a replica is half as fast from minute 33 on")
    _save(file)
    plt.close(figure)


def _late(file: Path, rows: list[Row]) -> None:
    """Draw the late jobs against the cost, a dot for each trace, age and drift."""
    costs = {
        (row.trace, row.target_age_seconds, row.drift): row.replica_seconds
        for row in rows
        if row.policy == "oracle"
    }
    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    for policy in ("keda", "keda tuned", "meshhook"):
        mine = [row for row in rows if row.policy == policy and row.is_steady]
        axis.scatter(
            [
                row.replica_seconds / costs[row.trace, row.target_age_seconds, row.drift]
                for row in mine
            ],
            [100 * row.late_share for row in mine],
            label=NAMES[policy],
            color=COLOURS[policy],
            s=14,
            alpha=0.7,
        )
    axis.set_xscale("log")
    axis.set_yscale("symlog", linthresh=0.1)
    axis.set_ylim(bottom=0)
    axis.axhline(0.1, color="black", lw=0.5, ls=":")
    axis.set_xlabel("replica-seconds, times those of the oracle (steady traces)")
    axis.set_ylabel("late jobs, %")
    axis.legend(frameon=False)
    _save(file)
    plt.close(figure)


def _save(file: Path) -> None:
    plt.savefig(file, format="svg", metadata={"Date": None})
    # matplotlib leaves blanks at the ends of lines.
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")
