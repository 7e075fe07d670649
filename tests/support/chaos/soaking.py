"""`make soak`: runs the endurance test for an hour, and writes what it shows into the docs.

It prints a line a sample, and ends with 1 if anything is wrong or grows.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from support.chaos import page
from support.chaos.fleet import Fleet
from support.chaos.processes import Forks
from support.chaos.servers import ServerTemplate, embedded_programs
from support.chaos.soak import Sample, Soak, Soaker
from support.chaos.soak_plot import draw
from support.databases import server_directory

PLOT = page.DOCS / "reliability-soak.svg"


def main() -> int:
    """Do it, and return the exit code."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="for how long. Default: 60")
    parser.add_argument("--per-second", type=float, default=500, help="jobs. Default: 500")
    parser.add_argument("--dry", action="store_true", help="leave the docs alone")
    arguments = parser.parse_args()
    soak = soaked(arguments.minutes, arguments.per_second)
    if not arguments.dry:
        found = soak.as_json() | {"date": f"{datetime.now(UTC):%Y-%m-%d}"}
        PLOT.write_text(draw(found["samples"]))
        page.record("soak", found)
    say(f"counts {json.dumps(soak.counts)}, not stored {json.dumps(soak.not_stored)}")
    say(f"wrong: {json.dumps(soak.wrong()) if soak.wrong() else 'nothing'}")
    return 1 if soak.wrong() else 0


def soaked(minutes: float, per_second: float) -> Soak:
    """Run it on a server of its own, on the disk: an hour of history does not fit into memory."""
    with server_directory() as folder, tempfile.TemporaryDirectory() as ledger:
        template = ServerTemplate(embedded_programs(), folder).make()
        server = template.server(settings={"checkpoint_timeout": "5min", "shared_buffers": "256MB"})
        forks = Forks()
        try:
            with server, Fleet(server, forks, Path(ledger, "fleet"), workers=0, jobs=0) as fleet:
                soaker = Soaker(fleet, minutes=minutes, per_second=per_second, on_sample=say_sample)
                return soaker.run()
        finally:
            forks.close()


def say_sample(sample: Sample) -> None:
    """Print a sample."""
    say(
        f"{sample.at_seconds:7.0f} s  worker {sample.worker_bytes >> 20} MiB, queue "
        f"{sample.queue_table_bytes >> 10} + {sample.queue_index_bytes >> 10} KiB, history "
        f"{sample.history_bytes >> 20} MiB, {sample.waiting} waiting, claim {sample.claim_ms} ms"
    )


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
