"""The alerts and recording rules as they stand in their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from support import promql

GRAFANA = Path(__file__).parents[2] / "grafana"
RECORDING = GRAFANA / "alerts" / "recording.yaml"
"""Beside the alerts, so that who installs the folder has all that the alerts need."""
ALERTS = sorted(file.stem for file in (GRAFANA / "alerts").glob("*.yaml") if file != RECORDING)


def rules(file: Path) -> list[dict[str, Any]]:
    """Return all rules of a file."""
    return [
        rule
        for group in yaml.load(file.read_text(), Loader=yaml.CSafeLoader)["groups"]
        for rule in group["rules"]
    ]


def alert(stem: str) -> dict[str, Any]:
    """Return the one rule of an alert's file."""
    (rule,) = rules(GRAFANA / "alerts" / f"{stem}.yaml")
    return rule


def recorded() -> dict[str, set[str]]:
    """Return the labels of each series that a recording rule makes: those of its first part."""
    return {
        rule["record"]: promql.grouped_labels(promql.parse(rule["expr"]))[0][0]
        for rule in rules(RECORDING)
    }
