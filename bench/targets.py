"""The targets of the project, and whether a report meets them."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.key_plan import KEY_COUNTS, MAX_RUNNING
from bench.mode import BASELINE, OWN
from bench.plan import BATCH_JOBS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Report = dict[str, Any]


class Figures:
    """A report's figures of MeshHook Queue. One that was not measured raises a KeyError."""

    def __init__(self, report: Report) -> None:
        """Take a report."""
        self._modes = {mode["mode"]: mode["summary"] for mode in report["modes"]}
        self._peers = [s["name"] for s in report["subjects"] if s["peer"]]

    def median(self, mode: str, figure: str) -> float:
        """Return a figure."""
        value: float = self._modes[mode][OWN][figure]["median"]
        return value

    def ratio(self, mode: str, figure: str, to: str) -> float:
        """Return a figure divided by another subject's."""
        value: float = self._modes[mode][OWN][figure]["ratios"][to]["median"]
        return value

    def own_ratio(self, mode: str, figure: str = "per_second") -> float:
        """Return a figure divided by its own in the mode that this one is compared with."""
        ratio = self._modes[mode][OWN][figure]["own_ratio"]
        if ratio is None:
            raise KeyError(mode)
        value: float = ratio["median"]
        return value

    def peer_ratios(self, mode: str, figure: str) -> list[float]:
        """Return a figure divided by that of each peer that was measured."""
        ratios = self._modes[mode][OWN][figure]["ratios"]
        return [ratios[peer]["median"] for peer in self._peers if peer in ratios] or [
            ratios["any peer"]
        ]

    def best(self, prefix: str, figure: str = "per_second") -> float:
        """Return the highest figure of the modes whose name begins so."""
        return max(
            self.median(mode, figure)
            for mode, summary in self._modes.items()
            if mode.startswith(prefix) and OWN in summary
        )


@dataclass(frozen=True, slots=True)
class Target:
    """One bound on one figure."""

    what: str
    target: str
    """The bound in words."""
    measured: Callable[[Figures], float]
    bound: float
    at_least: bool = True
    unit: str = "x"

    def row(self, figures: Figures) -> list[str]:
        """Return the target, what was measured, and what it comes to."""
        try:
            value = self.measured(figures)
        except KeyError:
            return [self.what, self.target, "", "not measured"]
        compare = operator.ge if self.at_least else operator.lt
        verdict = "met" if compare(value, self.bound) else "missed"
        return [self.what, self.target, f"{value:.2f}{self.unit}", verdict]


def _rate(mode: str, to: str) -> Callable[[Figures], float]:
    return lambda figures: figures.ratio(mode, "per_second", to)


def _own(mode: str, figure: str = "per_second") -> Callable[[Figures], float]:
    return lambda figures: figures.own_ratio(mode, figure)


def _pickup_against_peers(figures: Figures) -> float:
    return max(r for figure in ("p50_ms", "p99_ms") for r in figures.peer_ratios("pick_up", figure))


TARGETS = (
    Target(
        "drain, no-op, one process",
        "at least 3.5x PgQueuer",
        _rate("drain_small", "pgqueuer"),
        3.5,
    ),
    Target(
        "drain, no-op, one process",
        "at least 0.75x raw PGMQ",
        _rate("drain_small", BASELINE),
        0.75,
    ),
    Target(
        f"drain, no-op, batches of {BATCH_JOBS}",
        "at least 1.5x of single handlers",
        _own("drain_batched"),
        1.5,
    ),
    Target(
        "drain, real 8 KB bodies", "at least 3x PgQueuer", _rate("drain_webhooks", "pgqueuer"), 3.0
    ),
    Target(
        "single enqueue, 64 callers, durable",
        "at least 5x the best peer",
        lambda figures: min(figures.peer_ratios("enqueue_64", "per_second")),
        5.0,
    ),
    Target(
        "single enqueue, 1 caller",
        "no slower than raw PGMQ",
        _rate("enqueue_1", BASELINE),
        1.0,
    ),
    Target(
        "bulk enqueue, 256 bytes",
        "at least 0.9x raw `pgmq.send_batch`",
        _rate("enqueue_many_small", BASELINE),
        0.9,
    ),
    Target(
        "bulk enqueue, real 8 KB bodies",
        "at least 0.9x raw `pgmq.send_batch`",
        _rate("enqueue_many_webhooks", BASELINE),
        0.9,
    ),
    Target(
        "idle pickup, p50",
        "under 2 ms",
        lambda figures: figures.median("pick_up", "p50_ms"),
        2.0,
        at_least=False,
        unit=" ms",
    ),
    Target(
        "idle pickup, p99",
        "under 4 ms",
        lambda figures: figures.median("pick_up", "p99_ms"),
        4.0,
        at_least=False,
        unit=" ms",
    ),
    Target(
        "idle pickup, p50 and p99",
        "under those of every peer",
        _pickup_against_peers,
        1.0,
        at_least=False,
        unit="x the best peer",
    ),
    Target(
        "end to end at 800 jobs a second, p99",
        "under 10 ms",
        lambda figures: figures.median("end_to_end_small", "p99_ms"),
        10.0,
        at_least=False,
        unit=" ms",
    ),
    Target(
        "1M delayed in front", "at least 0.85x of the empty case", _own("delayed_1000000"), 0.85
    ),
    Target("backlog of 1M", "at least 0.85x of the empty case", _own("backlog_1000000"), 0.85),
    Target("350k finished", "at least 0.85x of the empty case", _own("finished_350000"), 0.85),
    Target(
        "transaction id held, 800 jobs a second",
        "every window at least 0.9x of the rate before",
        lambda figures: figures.median("held_800", "lowest_share"),
        0.9,
    ),
    Target(
        "transaction id held, full speed",
        "every window at least 0.9x of the rate before",
        lambda figures: figures.median("held_full_speed", "lowest_share"),
        0.9,
    ),
    Target(
        "128 connections that claim",
        "at least 0.8x of the best number",
        lambda f: f.median("connections_128", "per_second") / f.best("connections_"),
        0.8,
    ),
    Target(
        "memory at a backlog of 1M, peak",
        "under 150 MB",
        lambda figures: figures.median("backlog_1000000", "memory_peak_mib") * 2**20 / 1e6,
        150.0,
        at_least=False,
        unit=" MB",
    ),
    Target(
        "memory at a backlog of 1M, flat",
        "peak under 1.1x of that with no backlog",
        lambda figures: figures.own_ratio("backlog_1000000", "memory_peak_mib"),
        1.1,
        at_least=False,
    ),
)


KEY_TARGETS = (
    Target("drain, 1 key", "at least 0.8x of not keyed", _own("keys_1"), 0.8),
    Target("drain, 1,000 keys", "at least 0.6x of not keyed", _own("keys_1000"), 0.6),
    Target("drain, 10,000 keys", "at least 0.5x of not keyed", _own("keys_10000"), 0.5),
    Target("4 claimers, 1,000 keys", "at least 0.6x of not keyed", _own("keys_claimers_4"), 0.6),
    Target("16 claimers, 1,000 keys", "at least 0.6x of not keyed", _own("keys_claimers_16"), 0.6),
    Target(
        "WAL a job, with the keys for which it is most",
        "under 1.15x of not keyed",
        lambda f: max(f.own_ratio(f"keys_{n}", "wal_bytes_per_job") for n in KEY_COUNTS),
        1.15,
        at_least=False,
    ),
    Target(
        "wait of a quiet tenant beside a flood, p99",
        "under 2x of its wait alone",
        lambda figures: figures.median("keys_flood", "p99_to_alone"),
        2.0,
        at_least=False,
    ),
    Target(
        "slots of 10 tenants of which one floods",
        "Jain's index of at least 0.99",
        lambda figures: figures.median("keys_shares", "jain"),
        0.99,
        unit="",
    ),
    Target(
        "drain, 1,000 keys, a limit that does not bind",
        "at least 0.9x of no limit",
        _own("keys_1000_limited"),
        0.9,
    ),
    Target(
        "a limit that binds, used",
        "at least 0.95 of it",
        lambda figures: figures.median("keys_limit", "used_share"),
        0.95,
        unit="",
    ),
    Target(
        f"a limit of {MAX_RUNNING} that binds, most jobs at once",
        f"at most {MAX_RUNNING}",
        lambda figures: figures.median("keys_limit", "most_running"),
        MAX_RUNNING + 0.5,
        at_least=False,
        unit="",
    ),
    Target(
        "transaction id held, 1,000 keys, full speed",
        "every window at least 0.7x of the rate before",
        lambda figures: figures.median("keys_held", "lowest_share"),
        0.7,
    ),
)


def _console(mode: str, pages: str) -> tuple[Target, ...]:
    return (
        Target(
            f"the database's work a job, {pages}",
            "at most 1.05x of that without viewers",
            _own(mode, "database_cpu_us_per_job"),
            1.05,
            at_least=False,
        ),
        Target(
            f"the console's sessions alone, {pages}",
            "under 5% of the work without viewers",
            lambda figures: figures.median(mode, "console_cpu_share") * 100,
            5.0,
            at_least=False,
            unit="%",
        ),
    )


CONSOLE_TARGETS = (
    *_console("streams", "pages that listen to ticks"),
    *_console("polls", "pages that ask by themselves"),
)


def rows(report: Report, targets: Sequence[Target] = TARGETS) -> Iterator[list[str]]:
    """Return a row a target: what, target, measured, verdict."""
    figures = Figures(report)
    for target in targets:
        yield target.row(figures)
