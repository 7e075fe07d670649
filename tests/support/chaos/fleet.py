"""A fleet: a server, producers and workers as processes, and the books at the end."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from meshhook.embedded.postmaster import free_port
from support.chaos.books import Books, Observed
from support.chaos.counts import Counts, Facts
from support.chaos.ledger import Entry, entries
from support.chaos.processes import ForkedProcess, Forks
from support.chaos.scraped import outcomes_in, unsettled_in
from support.chaos.servers import EFFECTS, QUEUE, Server
from support.chaos.stored import Stored
from support.scraping import Answer, ask

JOBS_AFTER = 50
LATE_SECONDS = 15.0
DRAIN_SECONDS = 60.0
READY_SECONDS = 60.0
GRACE_SECONDS = 8
CONCURRENCY = 20
JOBS_PER_SECOND = 80.0

QUEUE_SETTINGS: Mapping[str, object] = {
    "visibility_timeout_seconds": 3,
    "max_retry_attempts": 30,
    "retry_backoff_base_ms": 100,
    "retry_backoff_max_ms": 1_000,
}


class WorkerProcess:
    """A worker: `meshhook worker`, with a monitoring port."""

    def __init__(self, name: str, process: ForkedProcess, port: int) -> None:
        self.name = name
        self.process = process
        self.port = port

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def ask(self, path: str) -> Answer | None:
        """Ask the monitoring port; None if nobody answers."""
        try:
            return ask(self.port, path)
        except (OSError, http.client.HTTPException):
            return None

    @property
    def is_ready(self) -> bool:
        """Whether it says so."""
        answer = self.ask("/readyz")
        return answer is not None and answer.status == 200


class Fleet:
    """Producers and workers on the queue of a server.

    Args:
        server: has the queue, and runs.
        forks: starts the processes.
        folder: for ledgers and logs.
        worker_url: where workers and their handlers find the database. Default: the server.
        producer_url: where producers find it. Default: the server.
        workers: how many workers there are at first.
        jobs: how many jobs are enqueued from the start on, at `JOBS_PER_SECOND`.
        mix: which jobs, of `support.chaos.producer.MIXES`.
        settings: of the queue, where not as in `QUEUE_SETTINGS`; None leaves it alone.
        environment: variables of all processes.
        late_seconds: in what time the jobs after the fault must end; what has nothing to do with it
            gives them longer, for a machine that does much else. Default 15.
    """

    def __init__(
        self,
        server: Server,
        forks: Forks,
        folder: Path,
        *,
        worker_url: str | None = None,
        producer_url: str | None = None,
        workers: int = 3,
        jobs: int = 1_000,
        mix: str = "mixed",
        settings: Mapping[str, object] | None = QUEUE_SETTINGS,
        environment: Mapping[str, str] | None = None,
        late_seconds: float = LATE_SECONDS,
    ) -> None:
        self.server = server
        self._late_seconds = late_seconds
        self.forks = forks
        self.folder = folder
        self.ledger = folder / "ledger"
        self.ledger.mkdir(parents=True)
        self.workers: list[WorkerProcess] = []
        self.producers: list[ForkedProcess] = []
        self.observed = Observed(self.ledger)
        self.facts: Facts | None = None
        self.counts: Counts | None = None
        self._serial = itertools.count(1)
        self._logs: list[Path] = []
        self._supervisors: list[ForkedProcess] = []
        worker_url = worker_url or server.url()
        self.environment = {
            "LEDGER": str(self.ledger),
            "QUEUE": QUEUE,
            "MESHHOOK_DATABASE_URL": worker_url,
            "MESHHOOK_LOG_FORMAT": "json",
            "EFFECT_URL": worker_url,
            "PRODUCER_URL": producer_url or server.url(),
            **(environment or {}),
        }
        if settings is not None:
            self.set_queue(**{**QUEUE_SETTINGS, **settings})
        self._first_workers, self._first_jobs, self._mix = workers, jobs, mix

    def __enter__(self) -> Self:
        """Start workers and a producer, and wait until jobs end."""
        self.start_workers(self._first_workers)
        if self._first_jobs:
            self.produce(self._first_jobs, per_second=JOBS_PER_SECOND, mix=self._mix)
        if self._first_jobs and self._first_workers:
            self.wait_for_progress()
        return self

    def __exit__(self, *_: object) -> None:
        """End every process that is left."""
        for process in [*self.producers, *self._supervisors, *(w.process for w in self.workers)]:
            process.send(signal.SIGKILL)

    def set_queue(self, **settings: object) -> None:
        """Change settings of the queue."""
        changes = ", ".join(f"{name} = {value}" for name, value in settings.items())
        self.server.fetch(
            f"update meshhook.queue_config set {changes} where queue_name = $1", QUEUE
        )

    def start_workers(self, count: int = 1, *options: str, **start: Any) -> list[WorkerProcess]:
        """Start workers, and wait until they are ready."""
        started = [self.start_worker(*options, **start) for _ in range(count)]
        self.wait_until_ready()
        return started

    def start_worker(
        self,
        *options: str,
        forks: Forks | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> WorkerProcess:
        """Start a worker, and do not wait for it."""
        name, port = f"w{next(self._serial)}", free_port()
        log = self.folder / f"{name}.log"
        options = ("--metrics-port", str(port), "--metrics-address", "127.0.0.1", *options)
        process = self._start_worker(name, log, *options, forks=forks, environment=environment)
        self._logs.append(log)
        self.workers.append(WorkerProcess(name, process, port))
        return self.workers[-1]

    def _start_worker(
        self,
        name: str,
        log: Path,
        *options: str,
        forks: Forks | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> ForkedProcess:
        return (forks or self.forks).start(
            "meshhook",
            *("worker", QUEUE, "--handler", "support.chaos.handlers:handle", "--name", name),
            *("--concurrency", str(CONCURRENCY), "--grace-seconds", str(GRACE_SECONDS), *options),
            log=log,
            environment={**self.environment, **(environment or {})},
        )

    def start_supervisor(self, processes: int) -> ForkedProcess:
        """Start a supervisor of several workers, and do not wait for it."""
        name = f"s{next(self._serial)}"
        log = self.folder / f"{name}.log"
        self._logs.append(log)
        supervisor = self._start_worker(name, log, "--processes", str(processes))
        self._supervisors.append(supervisor)
        return supervisor

    def kill_supervisor(self, supervisor: ForkedProcess) -> None:
        """End a supervisor by SIGKILL."""
        supervisor.send(signal.SIGKILL)
        supervisor.wait(30)
        self._supervisors.remove(supervisor)

    def command(self, *arguments: str, forks: Forks | None = None) -> ForkedProcess:
        """Start another command of `meshhook`."""
        log = self.folder / f"command{next(self._serial)}.log"
        return (forks or self.forks).start(
            "meshhook", *arguments, log=log, environment=self.environment
        )

    def make_queue(self, *, forks: Forks | None = None) -> None:
        """Make the queue, and the table of effects, in a database that was migrated just now."""
        code = self.command("queue", "create", QUEUE, forks=forks).wait(60)
        if code:
            message = f"no queue was made: {code}\n{self._ends_of_logs()}"
            raise RuntimeError(message)
        self.server.fetch(EFFECTS)
        self.set_queue(**QUEUE_SETTINGS)

    def kill(self, worker: WorkerProcess) -> None:
        """End a worker by SIGKILL."""
        self.observed.died.add(worker.pid)
        worker.process.send(signal.SIGKILL)
        worker.process.wait(30)
        self.workers.remove(worker)

    def stop(self, worker: WorkerProcess) -> None:
        """End a worker by SIGTERM, and count one that does not end well."""
        worker.process.send(signal.SIGTERM)
        self.await_end(worker)

    def await_end(self, worker: WorkerProcess) -> None:
        """Wait for a worker that was told to stop, and count one that does not end well."""
        try:
            code = worker.process.wait(GRACE_SECONDS + 30)
        except TimeoutError:
            worker.process.send(signal.SIGKILL)
            code = None
        if code != 0:
            self.observed.bad_ends += 1
            self.observed.died.add(worker.pid)
        self.workers.remove(worker)

    def produce(
        self,
        count: int,
        *,
        per_second: float,
        mix: str = "mixed",
        seed: int = 1,
        name: str = "",
        forks: Forks | None = None,
    ) -> ForkedProcess:
        """Start to enqueue jobs, and do not wait for the end."""
        name = name or f"p{len(self.producers)}"
        producer = (forks or self.forks).start(
            "support.chaos.producer",
            *(name, str(count), str(per_second), str(seed), mix),
            log=self.folder / f"{name}.log",
            environment=self.environment,
        )
        self.producers.append(producer)
        return producer

    def noted(self, event: str) -> list[Entry]:
        """Return what the ledger says of one kind of event."""
        return [entry for entry in entries(self.ledger) if entry.event == event]

    def wait_until(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        """Wait for something.

        Raises:
            TimeoutError: with the end of each log.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                message = f"not within {seconds:g} s: {what}\n{self._ends_of_logs()}"
                raise TimeoutError(message)
            time.sleep(0.05)

    def wait_for_progress(self, jobs: int = 50, seconds: float = 30) -> None:
        """Wait until that many more jobs have ended, or there are no more to come."""
        before = len(self.noted("ended"))

        def is_enough() -> bool:
            all_sent = all(producer.code is not None for producer in self.producers)
            return all_sent or len(self.noted("ended")) >= before + jobs

        self.wait_until(is_enough, seconds, f"{jobs} more jobs end")

    def wait_for_producers(self, seconds: float = 150) -> None:
        """Wait until all jobs were sent."""
        for producer in self.producers:
            producer.wait(seconds)

    def wait_until_empty(self, seconds: float) -> None:
        """Wait until no message is in the queue."""
        sql = f"select count(*) from pgmq.q_{QUEUE}"
        self.wait_until(lambda: not self.server.fetchval(sql), seconds, "the queue is empty")

    def wait_until_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until every worker is ready."""
        self.wait_until(lambda: all(w.is_ready for w in self.workers), seconds, "all are ready")

    def finish(self) -> Counts:
        """Let all jobs end after the fault, stop the workers, and return what is wrong."""
        self.send_jobs_after()
        self.wait_for_producers()
        # The books say what is left.
        with contextlib.suppress(TimeoutError):
            self.wait_until_empty(DRAIN_SECONDS)
        self.stop_all()
        self._read_logs()
        books = Books(self.observed, Stored.read(self.server.url(), QUEUE))
        self.facts, self.counts = books.facts(), books.counts()
        for sample in books.samples():
            print(sample)  # noqa: T201 - shown where the test fails
        return self.counts

    def stop_all(self) -> None:
        """Look at the workers a last time, and end them by SIGTERM."""
        self._look_at_workers()
        for worker in self.workers:
            worker.process.send(signal.SIGTERM)
        for worker in list(self.workers):
            self.await_end(worker)

    def send_jobs_after(self) -> None:
        """Enqueue jobs after the fault, and note which of them do not end in time."""
        name = f"after{len(self.producers)}"
        self.produce(JOBS_AFTER, per_second=1_000, mix="plain", name=name)
        expected = {f"{name}.{number}" for number in range(1, JOBS_AFTER + 1)}
        deadline = time.monotonic() + self._late_seconds
        while time.monotonic() < deadline:
            self.observed.late = sorted(expected - {e.run_id for e in self.noted("ended")})
            if not self.observed.late:
                return
            time.sleep(0.1)

    def _look_at_workers(self) -> None:
        """Read metrics and readiness. A worker knows what is done a moment after the database."""
        deadline = time.monotonic() + 30
        while True:
            scraped = {worker.name: worker.ask("/metrics") for worker in self.workers}
            texts = {name: answer.text for name, answer in scraped.items() if answer is not None}
            self.observed.not_ready = sum(not worker.is_ready for worker in self.workers)
            self.observed.unsettled = sum(map(unsettled_in, texts.values()))
            self.observed.worker_outcomes = {
                name: outcomes_in(text, QUEUE) for name, text in texts.items()
            }
            is_clean = not self.observed.not_ready and not self.observed.unsettled
            if is_clean or time.monotonic() > deadline:
                return
            time.sleep(0.2)

    def _read_logs(self) -> None:
        for line in itertools.chain.from_iterable(
            log.read_text(errors="replace").splitlines() for log in self._logs if log.exists()
        ):
            # A process that was killed may leave half a line.
            with contextlib.suppress(ValueError, TypeError, KeyError):
                said = json.loads(line)
                if "lease" in said["event"]:
                    self.observed.lost_leases.update(said.get("msg_ids", ()))
                    self.observed.lost_leases.add(said.get("msg_id", 0))

    def _ends_of_logs(self) -> str:
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-1_500:]}"
            for log in sorted(self.folder.glob("*.log"))
        )


MakeFleet = Callable[..., Fleet]
"""Makes a fleet on a server; its other arguments are those of `Fleet`."""
