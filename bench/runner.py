"""Takes measurements on one server: a process and a database for each, rounds interleaved."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import asyncpg

from bench.environments import EnvironmentUnavailableError, prepare_environment, read_pins
from bench.machine import OtherUse, describe_machine, describe_settings, describe_versions, is_quiet
from bench.mode import ModePlan, SubjectPlan
from bench.plan import by_importance
from bench.sizes import Size
from bench.summary import Round, summarize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshhook.embedded import EmbeddedPostgres

BENCH = Path(__file__).parent
PROBE_TIMEOUT_SECONDS = 900.0
FORMAT = 2
"""The version of the JSON's shape."""

Report = dict[str, Any]

logger = logging.getLogger("bench")


class ProbeError(Exception):
    """A measurement failed."""

    def in_short(self) -> str:
        """Return what was measured and the last line of what the probe wrote: the error itself.

        Without the trace, which names the paths of a machine.
        """
        lines = str(self).strip().splitlines()
        return " ".join(dict.fromkeys((lines[0], lines[-1])))


class TimeUpError(Exception):
    """The time for the whole run is up."""


def prepare(
    subjects: Sequence[SubjectPlan], directory: Path, on_peer: Callable[[str], None]
) -> tuple[dict[str, str], dict[str, str]]:
    """Make the environments of the peers.

    Args:
        subjects: all subjects.
        directory: where the environments are kept.
        on_peer: called with the title of each peer before its turn.

    Returns:
        The interpreter of each subject that can be measured, and why each other one cannot.
    """
    pins = read_pins()
    interpreters, left_out = {}, {}
    for subject in subjects:
        if not subject.peer:
            interpreters[subject.name] = sys.executable
            continue
        on_peer(subject.title)
        try:
            interpreters[subject.name] = str(prepare_environment(pins[subject.name], directory))
        except EnvironmentUnavailableError as error:
            left_out[subject.name] = str(error)
    return interpreters, left_out


class Bench:
    """Measures on one server. Each measurement gets a database and a process of its own."""

    def __init__(self, server: EmbeddedPostgres, interpreters: dict[str, str]) -> None:
        """Take a server that runs, and what runs each subject."""
        self._server = server
        self._interpreters = interpreters

    async def __aenter__(self) -> Self:
        """Connect."""
        self.connection = await asyncpg.connect(self._server.url("postgres"))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""
        await self.connection.close()

    async def install(self, subject: SubjectPlan) -> dict[str, Any]:
        """Make the database that those of the subject's measurements are copies of."""
        template = f"bench_{subject.name}"
        await self.connection.execute(f'create database "{template}"')
        return await self._probe(subject, template, "install", {})

    async def measure(
        self, subject: SubjectPlan, plan: ModePlan, timeout_seconds: float = PROBE_TIMEOUT_SECONDS
    ) -> dict[str, Any]:
        """Take one measurement.

        Raises:
            ProbeError: it failed, or jobs were lost.
            TimeoutError: it took too long.
        """
        template = f"bench_{subject.name}"
        await self.connection.execute(f'create database bench template "{template}"')
        try:
            parameters = plan.parameters_for(subject)
            async with asyncio.timeout(timeout_seconds):
                result = await self._probe(subject, "bench", plan.measure, parameters)
        finally:
            await self.connection.execute("drop database bench with (force)")
        return result | {
            "tracking": subject.tracking,
            "metrics": subject.metrics,
            "tracing": subject.tracing,
        }

    async def _probe(
        self, subject: SubjectPlan, database: str, measure: str, parameters: dict[str, Any]
    ) -> dict[str, Any]:
        request = {
            "subject": subject.name,
            "url": self._server.url(database),
            "measure": measure,
            "parameters": parameters,
        }
        process = await asyncio.create_subprocess_exec(
            self._interpreters[subject.name],
            *("-m", "bench.probe"),
            cwd=BENCH.parent,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # A peer sees the packages of its environment, and no others.
            env={k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}},
        )
        try:
            output, errors = await process.communicate(json.dumps(request).encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            what = f"{subject.title}, {measure} {parameters}"
            raise ProbeError(f"{what}:\n{errors.decode(errors='replace')}")
        result: dict[str, Any] = json.loads(output)
        return result


class Run:
    """One run of the benchmark: all modes of all subjects, in interleaved rounds."""

    def __init__(
        self,
        *,
        size: Size,
        rounds: int,
        plans: Sequence[ModePlan],
        subjects: Sequence[SubjectPlan],
        interpreters: dict[str, str],
        left_out: dict[str, str],
        began: float,
        on_step: Callable[[str, int], None],
        on_mode: Callable[[dict[str, Any], list[dict[str, Any]]], None],
    ) -> None:
        """Take what to do.

        Args:
            size: how much of everything.
            rounds: how often each measurement is taken; some modes say that fewer are enough.
            plans: the modes, in the order of the report.
            subjects: those that can be measured.
            interpreters: what runs each.
            left_out: why others cannot be measured.
            began: when the run began, by the monotonic clock: its budget counts from there.
            on_step: called before each measurement with its name and how many there are.
            on_mode: called with the results of a mode, and the subjects, once it is complete.
        """
        self._size, self._rounds, self._plans = size, rounds, plans
        self._interpreters, self._left_out = interpreters, left_out
        self._began = began
        self._subjects = tuple(subjects)
        self._on_step, self._on_mode = on_step, on_mode
        self._taken: dict[str, list[Round]] = {plan.mode: [] for plan in plans}
        self._failures: list[str] = []
        self._skipped: list[str] = []
        self._described = [asdict(subject) for subject in subjects]

    async def on(self, server: EmbeddedPostgres) -> Report:
        """Measure on a server, and return the report."""
        versions: dict[str, str] = {}
        other_cpu_percent: list[float] = []
        async with Bench(server, self._interpreters) as bench:
            for subject, described in zip(self._subjects, self._described, strict=True):
                installed = await bench.install(subject)
                versions |= installed["versions"]
                described["python"] = installed["python"]
            assert server.pid is not None
            others = OtherUse(server.pid)
            for number in range(self._rounds):
                await self._round(bench, number)
                other_cpu_percent.append(round(others.percent(), 1))
            return {
                "format": FORMAT,
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - self._began),
                "size": self._size.name,
                "rounds": self._rounds,
                "quiet": is_quiet(other_cpu_percent),
                "other_cpu_percent": other_cpu_percent,
                "machine": describe_machine(server.home),
                "versions": await describe_versions(bench.connection, versions),
                "postgresql_settings": await describe_settings(bench.connection),
                "subjects": self._described,
                "left_out": self._left_out,
                "failures": self._failures,
                "skipped": self._skipped,
                "modes": [self._result(plan) for plan in self._plans if self._taken[plan.mode]],
            }

    async def _round(self, bench: Bench, number: int) -> None:
        # Each goes first as often as the others.
        first = number % len(self._subjects)
        order = self._subjects[first:] + self._subjects[:first]
        for plan in by_importance(self._plans):
            if number >= self._rounds_of(plan):
                continue
            try:
                self._taken[plan.mode].append(await self._mode(bench, plan, order, number))
            except TimeUpError:
                which = f" in round {number + 1}" if self._rounds > 1 else ""
                self._skipped.append(f"{plan.mode}{which}")
            if number == self._rounds_of(plan) - 1 and self._taken[plan.mode]:
                self._on_mode(self._result(plan), self._described)

    async def _mode(
        self, bench: Bench, plan: ModePlan, order: Sequence[SubjectPlan], number: int
    ) -> Round:
        found: Round = {}
        for subject in order:
            if not plan.measures(subject):
                continue
            limit = self._limit_seconds()
            self._on_step(
                f"round {number + 1}: {plan.group}, {plan.title}, {subject.title}", self._steps()
            )
            try:
                found[subject.name] = await bench.measure(subject, plan, limit)
            except ProbeError as error:
                # The others' figures are as good as before.
                logger.error("%s", error)  # noqa: TRY400 - the trace is the probe's, in the text
                self._failures.append(error.in_short())
            except TimeoutError as error:
                if limit < PROBE_TIMEOUT_SECONDS:
                    raise TimeUpError from error
                self._failures.append(f"{subject.title}, {plan.mode}: not done in {limit:.0f} s")
        return {s.name: found[s.name] for s in self._subjects if s.name in found}

    def _limit_seconds(self) -> float:
        """Return how long the next measurement may take."""
        if self._size.budget_seconds is None:
            return PROBE_TIMEOUT_SECONDS
        left = self._began + self._size.budget_seconds - time.monotonic()
        if left <= 0:
            raise TimeUpError
        return min(left, PROBE_TIMEOUT_SECONDS)

    def _rounds_of(self, plan: ModePlan) -> int:
        return min(self._rounds, plan.rounds or self._rounds)

    def _steps(self) -> int:
        return sum(
            self._rounds_of(plan) * sum(plan.measures(subject) for subject in self._subjects)
            for plan in self._plans
        )

    def _result(self, plan: ModePlan) -> dict[str, Any]:
        taken = self._taken[plan.mode]
        return {
            "mode": plan.mode,
            "group": plan.group,
            "title": plan.title,
            "measure": plan.measure,
            "parameters": plan.parameters,
            "figures": list(plan.figures),
            "against": plan.against,
            "own_ratio": plan.own_ratio,
            "rounds": taken,
            "summary": summarize(plan.figures, taken, self._taken.get(plan.against)),
        }
