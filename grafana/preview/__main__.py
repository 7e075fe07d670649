"""`make dashboards-preview`: runs a fleet under a real Prometheus, and draws the dashboards."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from grafana.dashboards import DASHBOARDS, FOLDER
from grafana.preview.drawing import draw, install_charts
from grafana.preview.story import Story
from meshhook.embedded import EmbeddedPostgres
from meshhook.schema import migrate
from support.databases import TEST_SETTINGS, Databases, server_directory
from support.monitored_fleet import MonitoredFleet, monitored_fleet
from support.rule_files import GRAFANA

_PICTURES = GRAFANA.parent / "docs" / "dashboards"
_INTERVAL_SECONDS = 5
_CHOSEN = {"datasource": "Prometheus", "queue": "orders", "jobqueue": "shop/orders"}
_ONE_QUEUE = ("queue",)
_STAND_IN = "scaler without Kubernetes"


async def _gather(fleet: MonitoredFleet, stem: str, end: float) -> dict[str, Any]:
    board = json.loads((FOLDER / f"{stem}.json").read_text())
    answers: dict[str, Any] = {}
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            expr = _filled(target["expr"], stem)
            key = f"{panel['id']}/{target['refId']}"
            if target["instant"]:
                answers[key] = await fleet.prometheus.query(expr, time=end)
            else:
                answers[key] = await fleet.prometheus.query_range(
                    expr, fleet.started_at, end, _INTERVAL_SECONDS
                )
    return answers


def _filled(expr: str, stem: str) -> str:
    queue = _CHOSEN["queue"] if stem in _ONE_QUEUE else ".*"
    for variable, value in {
        "$__rate_interval": f"{4 * _INTERVAL_SECONDS}s",
        "$namespace": ".*",
        "$queue": queue,
        "$instance": ".*",
        "$jobqueue": _CHOSEN["jobqueue"],
    }.items():
        expr = expr.replace(variable, value)
    return expr


async def _preview(url: str, folder: Path, story: Story, pictures: Path) -> None:
    rules = sorted((GRAFANA / "alerts").glob("*.yaml"))
    async with monitored_fleet(
        url, folder, rules=rules, interval_seconds=_INTERVAL_SECONDS
    ) as fleet:
        await story.tell(fleet)
        end = time.time()
        answers = {stem: await _gather(fleet, stem, end) for stem in DASHBOARDS}
    for stem, found in answers.items():
        chosen = dict(_CHOSEN)
        if stem not in _ONE_QUEUE:
            del chosen["queue"]
        await draw(
            json.loads((FOLDER / f"{stem}.json").read_text()),
            found,
            chosen=chosen,
            marks=[_STAND_IN] if stem in {"fleet", "operator"} else [],
            span=(fleet.started_at, end),
            step_seconds=_INTERVAL_SECONDS,
            picture=pictures / f"{stem}.png",
        )
        sys.stdout.write(f"drew {stem}.png\n")


def main() -> int:
    """Run the fleet, and draw what Prometheus saw."""
    parser = argparse.ArgumentParser(prog="python -m grafana.preview", description=__doc__)
    parser.add_argument("--speed", type=float, default=1.0, help="how many times shorter to run")
    parser.add_argument("--into", type=Path, default=_PICTURES, help="the folder of the pictures")
    arguments = parser.parse_args()
    asyncio.run(install_charts())
    with server_directory(in_memory=True) as directory, tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(directory / "postgres", settings=TEST_SETTINGS)
        server.start()
        databases = Databases(server)
        try:
            url = databases.create(template=databases.create_template(migrate))
            story = Story(arguments.speed)
            asyncio.run(_preview(url, Path(folder), story, arguments.into.resolve()))
        finally:
            databases.close()
            server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
