"""Runs MeshHook Queue, raw PGMQ and two peers through the same faults, and writes what came of it.

Three workers, a producer, a PostgreSQL that crashes, workers that are killed or frozen: the same
moments for each. A worker that ends by itself is started again, as by any orchestrator.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.environments import prepare_environment, read_pins
from support.chaos import page
from support.chaos.ledger import entries
from support.chaos.servers import (
    Server,
    ServerTemplate,
    embedded_programs,
    fetch,
)
from support.databases import server_directory

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).parents[2]
SUBJECTS = {
    "meshhook": "MeshHook Queue",
    "pgmq": "raw PGMQ",
    "pgqueuer": "PgQueuer",
    "procrastinate": "Procrastinate",
}
WORKERS = 3
JOBS = 600
PER_SECOND = 40.0
END_SECONDS = 60.0
RESTART_SECONDS = 0.5


class Stage:
    """A database, the processes of one subject, and their ledger."""

    def __init__(self, subject: str, python: str, server: Server, folder: Path) -> None:
        self.server = server
        self._subject = subject
        self._python = python
        self._url = server.url(f"faults_{subject}")
        self._folder = folder
        self.ledger = folder / "ledger"
        self.ledger.mkdir()
        self.workers: list[subprocess.Popen[bytes]] = []
        self.restarts = 0

    def install(self) -> None:
        """Make the database."""
        fetch(self.server.url("postgres"), f"create database faults_{self._subject}")
        if self._run("install").wait(60):
            message = f"{self._subject} was not installed: {(self._folder / 'log').read_text()}"
            raise RuntimeError(message)

    def start_worker(self) -> None:
        """Start a worker."""
        self.workers.append(self._run("work"))

    def produce(self) -> subprocess.Popen[bytes]:
        """Start the producer."""
        return self._run("produce", str(JOBS), str(PER_SECOND))

    def keep_workers(self) -> None:
        """Start another worker for each that has ended by itself."""
        for worker in list(self.workers):
            if worker.poll() is not None:
                self.workers.remove(worker)
                self.restarts += 1
                self.start_worker()

    def wait(self, seconds: float) -> None:
        """Let time pass, and keep the workers running."""
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            time.sleep(min(RESTART_SECONDS, max(0.0, ends_at - time.monotonic())))
            self.keep_workers()

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers:
            worker.kill()
            worker.wait()

    def unfinished(self) -> set[str]:
        """Return the jobs that were confirmed and have not come to their end."""
        noted = list(entries(self.ledger))
        confirmed = {entry.run_id for entry in noted if entry.event == "confirmed"}
        return confirmed - {entry.run_id for entry in noted if entry.event == "ended"}

    def result(self) -> dict[str, Any]:
        """Return what came of it."""
        noted = list(entries(self.ledger))
        ends = Counter(entry.run_id for entry in noted if entry.event == "ended")
        return {
            "confirmed": sum(entry.event == "confirmed" for entry in noted),
            "refused": sum(entry.event == "refused" for entry in noted),
            "unfinished": len(self.unfinished()),
            "ran_twice": sum(times > 1 for times in ends.values()),
            "restarts": self.restarts,
        }

    def _run(self, *arguments: str) -> subprocess.Popen[bytes]:
        command, *rest = arguments
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [
                    self._python,
                    "-m",
                    f"bench.faults.subjects.{self._subject}",
                    command,
                    self._url,
                    *rest,
                ],
                cwd=REPOSITORY,
                env=os.environ
                | {"PYTHONPATH": str(REPOSITORY / "tests"), "LEDGER": str(self.ledger)},
                stdout=log,
                stderr=log,
            )


def crash(stage: Stage) -> None:
    """Stop PostgreSQL at once and start it again, three times."""
    for _ in range(3):
        stage.wait(2)
        stage.server.restart("immediate")


def kill(stage: Stage) -> None:
    """Kill five workers, one after the other, and replace each."""
    chance = random.Random(1)
    for _ in range(5):
        stage.wait(2)
        worker = stage.workers.pop(chance.randrange(len(stage.workers)))
        worker.kill()
        worker.wait()
        stage.start_worker()


def freeze(stage: Stage) -> None:
    """Stop each worker for twice as long as a lease, and let it go on."""
    for worker in list(stage.workers):
        stage.wait(1)
        worker.send_signal(signal.SIGSTOP)
        stage.wait(6)
        worker.send_signal(signal.SIGCONT)


FAULTS: dict[str, tuple[str, Callable[[Stage], None]]] = {
    "crash": ("the server crashes three times", crash),
    "kill": ("five workers are killed", kill),
    "freeze": ("three workers are frozen past their lease", freeze),
}


def run_one(subject: str, python: str, fault: Callable[[Stage], None], template: Any) -> Any:
    """Run a subject through a fault, and return what came of it."""
    server = template.server()
    with tempfile.TemporaryDirectory() as folder, server:
        stage = Stage(subject, python, server, Path(folder))
        stage.install()
        try:
            for _ in range(WORKERS):
                stage.start_worker()
            producer = stage.produce()
            stage.wait(3)
            fault(stage)
            producer.wait(120)
            ends_at = time.monotonic() + END_SECONDS
            while stage.unfinished() and time.monotonic() < ends_at:
                stage.wait(0.5)
            # Whoever would run something again has time to.
            stage.wait(5)
            return stage.result()
        finally:
            stage.close()
            template.remove(server)


def main() -> None:
    """Run all, and write docs/reliability.json and docs/reliability.md."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults.run", description=__doc__)
    parser.add_argument("--only", choices=SUBJECTS, action="append", help="a subject, again")
    parser.add_argument("--environments", type=Path, default=Path.home() / ".cache/meshhook/peers")
    arguments = parser.parse_args()
    pins, rows = read_pins(), []
    with server_directory(in_memory=True) as folder:
        template = ServerTemplate(embedded_programs(), folder).make()
        for name, title in SUBJECTS.items():
            if arguments.only and name not in arguments.only:
                continue
            own = name not in pins
            python = (
                sys.executable if own else prepare_environment(pins[name], arguments.environments)
            )
            version = "" if own else pins[name].packages[0].partition("==")[2]
            for fault, (what, do) in FAULTS.items():
                found = run_one(name, str(python), do, template)
                print(f"{title}, {what}: {found}", flush=True)
                rows.append({"subject": f"{title} {version}".strip(), "fault": fault, **found})
    again = {row["subject"] for row in rows}
    kept = page.read_results().get("peers", {"runs": []})["runs"] if arguments.only else []
    rows = [row for row in kept if row["subject"] not in again] + rows
    page.record("peers", {"date": f"{datetime.now(UTC):%Y-%m-%d}", "runs": rows})


if __name__ == "__main__":
    main()
