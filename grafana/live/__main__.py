"""`make dashboards-live`: runs a fleet under a real Prometheus until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from pathlib import Path

from grafana.dashboards import FOLDER
from grafana.live.story import Story
from meshhook.embedded import EmbeddedPostgres
from meshhook.schema import migrate
from support.databases import TEST_SETTINGS, Databases, server_directory
from support.monitored_fleet import monitored_fleet
from support.rule_files import GRAFANA

_INTERVAL_SECONDS = 5


async def _run(url: str, folder: Path, story: Story) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    rules = sorted((GRAFANA / "alerts").glob("*.yaml"))
    async with monitored_fleet(
        url, folder, rules=rules, interval_seconds=_INTERVAL_SECONDS
    ) as fleet:
        _say(
            f"Prometheus: http://127.0.0.1:{fleet.prometheus.port}\n"
            f"Make it a data source of your Grafana, and import the files in {FOLDER}.\n"
            f"The load goes on for {story.seconds / 60:.0f} minutes; Ctrl-C ends everything."
        )
        told = asyncio.create_task(story.tell(fleet), name="story")
        stopped = asyncio.create_task(stop.wait(), name="stop")
        await asyncio.wait({told, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if told.done():
            told.result()
            _say("The load is over; the figures stay until Ctrl-C.")
            await stopped
        told.cancel()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Run the fleet until a signal ends it."""
    parser = argparse.ArgumentParser(prog="python -m grafana.live", description=__doc__)
    parser.add_argument("--speed", type=float, default=1.0, help="how many times shorter to run")
    arguments = parser.parse_args()
    with server_directory(in_memory=True) as directory, tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(directory / "postgres", settings=TEST_SETTINGS)
        server.start()
        databases = Databases(server)
        try:
            url = databases.create(template=databases.create_template(migrate))
            asyncio.run(_run(url, Path(folder), Story(arguments.speed)))
        finally:
            databases.close()
            server.stop()


if __name__ == "__main__":
    main()
