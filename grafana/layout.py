"""Puts panels into rows and rows into a dashboard: places, ids, and what all dashboards share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DatasourceVariable,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, GridPos

from grafana.links import TAG, between_dashboards
from grafana.panels import Panel
from grafana.variables import DATASOURCE

_COLUMNS = 24


@dataclass(frozen=True, slots=True)
class Section:
    """A row with a title and its panels, side by side and equally wide.

    Args:
        title: the head of the row.
        panels: the panels, from left to right.
        height: of each, in the units of Grafana's grid (30 pixels).
        per_line: how many stand side by side; None means all of them.
    """

    title: str
    panels: Sequence[Panel]
    height: int = 8
    per_line: int | None = None


def lay_out(
    *,
    uid: str,
    title: str,
    description: str,
    variables: Sequence[DatasourceVariable | QueryVariable],
    sections: Sequence[Section],
) -> Dashboard:
    """Return a dashboard with every panel in its place and numbered from 1 on.

    Raises:
        ValueError: if panels do not divide the width of 24 evenly.
    """
    board = (
        Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .readonly()
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(between_dashboards())
    )
    for variable in variables:
        board.with_variable(variable)
    number, y = 1, 0
    for section in sections:
        place = GridPos(h=1, w=_COLUMNS, x=0, y=y)
        board.with_row(Row(section.title).id(number).grid_pos(place))
        number, y = number + 1, y + 1
        per_line = section.per_line or len(section.panels)
        if _COLUMNS % per_line:
            raise ValueError(
                f"{title}: {per_line} panels side by side do not divide {_COLUMNS} columns evenly; "
                "use 1, 2, 3, 4, 6 or 8"
            )
        width = _COLUMNS // per_line
        for index, panel in enumerate(section.panels):
            place = GridPos(
                h=section.height,
                w=width,
                x=width * (index % per_line),
                y=y + section.height * (index // per_line),
            )
            board.with_panel(panel.id(number).datasource(DATASOURCE).grid_pos(place))
            number += 1
        y += section.height * -(-len(section.panels) // per_line)
    return board
