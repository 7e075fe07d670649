"""The books: what the ledger, the database and the workers say of each job, and where they differ.

Jobs are told apart by run_id, since ids of messages may come again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import asyncpg

from support.chaos.counts import Counts, Facts
from support.chaos.ledger import Entry, entries
from support.chaos.stored import Stored

FINAL = frozenset({"succeeded", "dead_lettered", "cancelled", "archived", "expired"})
COUNTED = FINAL | {"retried", "snoozed"}
"""The outcomes of which a worker's metrics count exactly what the history has."""

ENDINGS: Mapping[str, str] = {
    "dead": "dead_lettered",
    "cancel": "cancelled",
    "exit": "dead_lettered",
    "eat": "dead_lettered",
    "expire": "expired",
    "expire_dead": "dead_lettered",
}
"""The outcome that is right for a kind of job; for all others: succeeded."""

NEVER_STARTED = frozenset({"expire", "expire_dead"})
"""The kinds of jobs that no handler may see, because they expire first."""

SAMPLES = 3
_ANSWERS = ("confirmed", "uncertain", "refused", "rolled_back")
_HANDLED = ("started", "ended", "failed")


@dataclass
class Observed:
    """What was seen from outside while the fleet ran."""

    ledger: Path
    died: set[int] = field(default_factory=set)
    """The process ids of those that were killed, or died by a job."""
    worker_outcomes: dict[str, Mapping[str, int]] = field(default_factory=dict)
    """What the metrics of workers that lived have counted, by worker and outcome."""
    lost_leases: set[int] = field(default_factory=set)
    """Ids of messages of which a worker said that it had lost the lease."""
    went_back: tuple[float, float] | None = None
    """The moment whose state the database went back to, and that at which it did. What was
    confirmed between them may be lost, and what ran before the second may run again."""
    unsettled: int = 0
    not_ready: int = 0
    bad_ends: int = 0
    late: list[str] = field(default_factory=list)


class Books:
    """Compares all that is known of the jobs of one queue."""

    def __init__(self, observed: Observed, stored: Stored) -> None:
        self._observed = observed
        self._stored = stored
        self._noted: dict[str, list[Entry]] = defaultdict(list)
        self._of_job: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries(observed.ledger):
            self._noted[entry.event].append(entry)
            self._of_job[entry.run_id].append(entry)
        self._kinds = {entry.run_id: entry.detail for entry in self._noted["attempted"]}
        self._rows: dict[str, list[asyncpg.Record]] = defaultdict(list)
        for row in stored.history:
            self._rows[row["run_id"]].append(row)
        self._finals = {
            run_id: [row for row in rows if row["outcome"] in FINAL]
            for run_id, rows in self._rows.items()
        }
        self._live = Counter(stored.live)

    def facts(self) -> Facts:
        """Return how much happened."""
        return Facts(
            **{name: len(self._noted[name]) for name in _ANSWERS},
            runs=len(self._noted["started"]),
            repeats=sum(len(self._ends(run_id)) > 1 for run_id in self._of_job),
            lost_attempts=sum(row["outcome"] == "lost" for row in self._stored.history),
            forgiven=len(self._forgiven),
            died=len(self._observed.died),
        )

    def counts(self) -> Counts:
        """Return how many jobs are not as they should be."""
        return Counts(
            **{name: len(run_ids) for name, run_ids in self.wrong.items()},
            metrics_differ=self._metrics_differ(),
            unsettled=self._observed.unsettled,
            not_ready=self._observed.not_ready,
            bad_ends=self._observed.bad_ends,
        )

    def samples(self) -> list[str]:
        """Return what is known of a few jobs of each count, for whoever has to find out why."""
        jobs = [
            f"{name}: {run_id}: {self._life(run_id)}"
            for name, run_ids in self.wrong.items()
            for run_id in sorted(run_ids)[:SAMPLES]
        ]
        recorded = self._recorded
        metrics = [
            f"metrics_differ: {worker} {outcome}: {counted.get(outcome, 0)} counted, "
            f"{recorded[worker, outcome]} recorded"
            for worker, counted in self._observed.worker_outcomes.items()
            for outcome in sorted(COUNTED)
            if counted.get(outcome, 0) != recorded[worker, outcome]
        ]
        return [*jobs, *(metrics if self._observed.went_back is None else [])]

    @cached_property
    def wrong(self) -> dict[str, set[str]]:
        """The jobs that are not as they should be, by what is wrong."""
        finals, live, effects = self._finals, self._live, Counter(self._stored.effects)
        confirmed, uncertain = self._with("confirmed"), self._with("uncertain")
        started = self._with("started")
        expiring = {run_id for run_id, kind in self._kinds.items() if kind in NEVER_STARTED}
        ended = {run_id for run_id, rows in finals.items() if rows}
        succeeded = {i for i in ended if any(r["outcome"] == "succeeded" for r in finals[i])}
        known = set(live) | set(self._rows) | started
        return {
            "lost": self._serious(confirmed - ended - set(live)),
            "left": set(live),
            "never_ran": ended - started - expiring,
            "ended_twice": self._serious(i for i in ended if len(finals[i]) > 1),
            "ended_and_live": ended & set(live),
            "stored_twice": self._serious(
                i for i in confirmed | uncertain if self._messages(i) > 1
            ),
            "rolled_back_stored": self._with("rolled_back") & known,
            "refused_stored": self._with("refused") & known,
            "unanswered": self._with("attempted") - set().union(*map(self._with, _ANSWERS)),
            "wrong_endings": {i for i in ended if not self._is_right(i)} | started & expiring,
            "dead_letters_differ": self._dead_letters_differ(),
            "effects_twice": {i for i, times in effects.items() if times > 1},
            "effects_without_success": set(effects) - succeeded,
            "successes_without_effect": {
                i for i in succeeded - set(effects) if self._kinds.get(i) == "complete"
            },
            "unexplained_repeats": self._serious(filter(self._is_unexplained, self._of_job)),
            "attempt_gaps": self._serious(i for i in ended if self._has_gap(i)),
            "late": set(self._observed.late),
        }

    def _with(self, event: str) -> set[str]:
        return {entry.run_id for entry in self._noted[event]}

    def _serious(self, run_ids: Iterable[str]) -> set[str]:
        return set(run_ids) - self._forgiven

    @cached_property
    def _forgiven(self) -> set[str]:
        """The jobs of which something happened while what happened was bound to be forgotten."""
        if self._observed.went_back is None:
            return set()
        since, until = self._observed.went_back
        return {
            entry.run_id
            for noted in self._of_job.values()
            for entry in noted
            if since < entry.at < until
        }

    def _messages(self, run_id: str) -> int:
        """Return as how many messages a job was stored."""
        return len({row["msg_id"] for row in self._rows.get(run_id, [])}) or self._live[run_id]

    def _is_right(self, run_id: str) -> bool:
        right = ENDINGS.get(self._kinds.get(run_id, ""), "succeeded")
        return all(row["outcome"] == right for row in self._finals[run_id])

    def _dead_letters_differ(self) -> set[str]:
        recorded = Counter(
            row["run_id"] for row in self._stored.history if row["outcome"] == "dead_lettered"
        )
        there = Counter(self._stored.dead)
        return self._serious({*(recorded - there), *(there - recorded)})

    def _ends(self, run_id: str) -> list[Entry]:
        return sorted(e for e in self._of_job.get(run_id, []) if e.event == "ended")

    def _is_unexplained(self, run_id: str) -> bool:
        rows = self._rows.get(run_id, [])
        if any(
            row["outcome"] == "lost" or row["msg_id"] in self._observed.lost_leases for row in rows
        ):
            return False
        return any(entry.pid not in self._observed.died for entry in self._ends(run_id)[:-1])

    def _has_gap(self, run_id: str) -> bool:
        attempts = {row["attempt"] for row in self._rows[run_id]}
        return attempts != set(range(1, max(attempts) + 1))

    def _metrics_differ(self) -> int:
        if self._observed.went_back is not None:
            return 0
        return metrics_differ(self._observed.worker_outcomes, self._recorded)

    @cached_property
    def _recorded(self) -> Counter[tuple[str, str]]:
        return Counter((row["worker"], row["outcome"]) for row in self._stored.history)

    def _life(self, run_id: str) -> str:
        noted = sorted(self._of_job.get(run_id, []))
        told = [f"{e.at:.2f} {e.event} {e.detail} [{e.pid}]" for e in noted]
        told += [
            f"{row['outcome']} #{row['msg_id']}.{row['attempt']} {row['worker']}"
            for row in self._rows.get(run_id, [])
        ]
        return "; ".join([*told, *["in the queue"] * self._live[run_id]])


def metrics_differ(
    counted: Mapping[str, Mapping[str, int]], recorded: Mapping[tuple[str, str], int]
) -> int:
    """Return by how much the metrics of workers differ from the history.

    Args:
        counted: by worker and outcome.
        recorded: the same of the history, by pairs of them.
    """
    return sum(
        abs(outcomes.get(outcome, 0) - recorded.get((worker, outcome), 0))
        for worker, outcomes in counted.items()
        for outcome in COUNTED
    )
