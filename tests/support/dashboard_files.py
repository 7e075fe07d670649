"""The dashboards as they stand in their files, with their panels and queries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "grafana" / "dashboards"
STEMS = sorted(file.stem for file in FOLDER.glob("*.json"))


@dataclass(frozen=True, slots=True)
class PanelQuery:
    """A query of a panel, and where it stands."""

    stem: str
    panel: dict[str, Any]
    target: dict[str, Any]

    @property
    def expr(self) -> str:
        """The PromQL, with Grafana's variables."""
        expr: str = self.target["expr"]
        return expr

    @property
    def name(self) -> str:
        """The place, for people and for lists of exceptions."""
        return f"{self.stem}/{self.panel['title']}/{self.target['refId']}"


def read(stem: str) -> dict[str, Any]:
    """Return a dashboard."""
    board: dict[str, Any] = json.loads((FOLDER / f"{stem}.json").read_text())
    return board


def panels(stem: str) -> list[dict[str, Any]]:
    """Return the panels of a dashboard, without the heads of rows."""
    return [panel for panel in read(stem)["panels"] if panel["type"] != "row"]


def queries() -> Iterator[PanelQuery]:
    """Yield every query of every dashboard."""
    for stem in STEMS:
        for panel in panels(stem):
            for target in panel["targets"]:
                yield PanelQuery(stem, panel, target)
