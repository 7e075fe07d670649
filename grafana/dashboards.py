"""Writes the dashboards: `python -m grafana.dashboards` makes grafana/dashboards/*.json."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana.boards import fleet, operator, postgres, queue, worker

FOLDER = Path(__file__).parent / "dashboards"

DASHBOARDS: dict[str, Callable[[], Dashboard]] = {
    "fleet": fleet.build,
    "queue": queue.build,
    "worker": worker.build,
    "operator": operator.build,
    "postgres": postgres.build,
}
"""What builds each dashboard, by the stem of its file."""


def render(stem: str) -> str:
    """Return the JSON of a dashboard, as it stands in its file."""
    return json.dumps(DASHBOARDS[stem]().build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def main() -> int:
    """Write all dashboards, and say which ones changed."""
    for stem in DASHBOARDS:
        file = FOLDER / f"{stem}.json"
        text = render(stem)
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
            sys.stdout.write(f"wrote {file.name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
