"""Play the traces of long jobs and slow pods against every scaler, and write the results.

`python -m bench.scaling.long_run --seeds 3 --document docs/scaling.md` writes what is published.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from bench.marked import MarkedPart
from bench.scaling.contract import best_of
from bench.scaling.keda_policy import LONG_JOB_TUNINGS, by_default, long_jobs_in_hindsight
from bench.scaling.long_traces import long_traces
from bench.scaling.meshhook_policy import MeshHook
from bench.scaling.prompt_policy import Prompt
from bench.scaling.slots import SlotWorld, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.scaling.contract import Policy, Result
    from bench.scaling.jobs import JobTrace

PART = MarkedPart("bench/scaling/long_run.py")
AGES_SECONDS = (15, 30, 60)
LATE_SHARE = 0.001
NAMES = {
    "meshhook": "MeshHook",
    "keda": "KEDA at its defaults",
    "keda hindsight": "KEDA tuned in hindsight",
    "prompt": "bound",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LongRow:
    """One scaler on one trace: of the seeds the worst wait, the sum of stops, else the mean."""

    trace: str
    about: str
    is_steady: bool
    concurrency: int
    target_age_seconds: int
    policy: str
    late_share: float
    p99_wait_seconds: int
    cost: float
    """Replica-seconds over those of a fleet whose slots are always full."""
    scale_events: int
    most_replicas: int
    cut: int
    busy_stops: int


def play(trace: JobTrace, policy: str, *, seed: int) -> Result:
    """Play a trace once."""
    if policy == "keda hindsight":
        return _best_tuning(trace, seed)
    world = SlotWorld(trace, seed=seed)
    found: Policy[SlotWorld]
    if policy == "meshhook":
        found = MeshHook(world)
    elif policy == "prompt":
        found = Prompt(world)
    else:
        found = by_default(world)
        world.idle_first = False
    return run(world, found)


def _best_tuning(trace: JobTrace, seed: int) -> Result:
    """Return the cheapest of many tunings that keeps the target age, or the least late."""
    results = []
    for tuning in range(len(LONG_JOB_TUNINGS)):
        world = SlotWorld(trace, seed=seed)
        results.append(run(world, long_jobs_in_hindsight(world, tuning)))
    return best_of(results, LATE_SHARE)


def rows(
    seeds: Sequence[int],
    names: Sequence[str],
    ages_seconds: Sequence[int],
    policies: Sequence[str],
) -> list[LongRow]:
    """Play everything, and return a row for each age, trace and scaler."""
    return [
        _row([trace for seed in seeds for trace in _traces(seed, age, name)], policy, seeds)
        for age, name, policy in product(ages_seconds, names, policies)
    ]


def _traces(seed: int, age_seconds: int, name: str) -> Iterator[JobTrace]:
    return (trace for trace in long_traces(seed, age_seconds) if trace.name == name)


def _row(traces: Sequence[JobTrace], policy: str, seeds: Sequence[int]) -> LongRow:
    played = [
        (trace, play(trace, policy, seed=seed)) for trace, seed in zip(traces, seeds, strict=True)
    ]
    results = [result for _, result in played]
    first = traces[0]
    return LongRow(
        trace=first.name,
        about=first.about,
        is_steady=first.is_steady,
        concurrency=first.concurrency,
        target_age_seconds=first.target_age_seconds,
        policy=policy,
        late_share=max(result.late_share for result in results),
        p99_wait_seconds=max(result.p99_wait_seconds for result in results),
        cost=mean(result.replica_seconds / _ideal(trace) for trace, result in played),
        scale_events=round(mean(result.scale_events for result in results)),
        most_replicas=max(result.most_replicas for result in results),
        cut=sum(result.cut for result in results),
        busy_stops=sum(result.busy_stops for result in results),
    )


def _ideal(trace: JobTrace) -> float:
    """Replica-seconds of a fleet whose slots are always full."""
    return sum(job.run_seconds * (1 + job.failures) for job in trace.jobs) / trace.concurrency


def late_beyond_bound(played: Sequence[LongRow]) -> list[tuple[float, LongRow]]:
    """Return, for each trace and age, how much more is late with us than with the bound."""
    bounds = {_key(row): row.late_share for row in played if row.policy == "prompt"}
    return [
        (row.late_share - bounds[_key(row)], row)
        for row in played
        if row.policy == "meshhook" and _key(row) in bounds
    ]


def cost_ratios(played: Sequence[LongRow]) -> list[tuple[float, LongRow]]:
    """Return our cost over that of KEDA, of the steady traces where KEDA keeps the target age."""
    peers = {_key(row): row for row in played if row.policy == "keda hindsight"}
    return [
        (row.cost / peers[_key(row)].cost, row)
        for row in played
        if row.policy == "meshhook" and row.is_steady
        if _key(row) in peers and peers[_key(row)].late_share <= LATE_SHARE
    ]


def _key(row: LongRow) -> tuple[str, int]:
    return row.trace, row.target_age_seconds


def _lines(played: Sequence[LongRow], seeds: int) -> Iterator[str]:
    yield (
        f"Of {seeds} runs with different seeds: the worst share and wait, the mean cost, and all "
        "jobs that were cut off."
        if seeds > 1
        else "Of one run."
    )
    if beyond := late_beyond_bound(played):
        kept = sum(share <= LATE_SHARE for share, _ in beyond)
        share, row = max(beyond, key=lambda pair: pair[0])
        yield (
            f"MeshHook is at most {100 * LATE_SHARE:.1f} percentage points later than the bound in "
            f"{kept} of {len(beyond)} cases; at most {max(0.0, 100 * share):.2f} "
            f"({row.trace}, {row.target_age_seconds} s)."
        )
    if ratios := cost_ratios(played):
        ratio, row = max(ratios, key=lambda pair: pair[0])
        yield (
            f"On steady traces where KEDA tuned in hindsight keeps the target age, MeshHook costs "
            f"at most {ratio:.2f} times as much ({row.trace}, {row.target_age_seconds} s)."
        )
    for age in dict.fromkeys(row.target_age_seconds for row in played):
        yield ""
        yield f"Target age {age} s:"
        yield ""
        heads = (
            "slots",
            "scaler",
            "late",
            "p99 wait",
            "cost",
            "changes",
            "most replicas",
            "cut off",
        )
        yield f"| trace | {' | '.join(heads)} |"
        yield "|---|---:|---|---:|---:|---:|---:|---:|---:|"
        for row in played:
            if row.target_age_seconds == age:
                yield _line(row)


def _line(row: LongRow) -> str:
    return (
        f"| {row.trace} | {row.concurrency} | {NAMES[row.policy]} | {100 * row.late_share:.2f}% "
        f"| {row.p99_wait_seconds} s | {row.cost:.2f} | {row.scale_events} | {row.most_replicas} "
        f"| {row.cut} |"
    )


def main() -> None:
    """Read the options, play, and write."""
    names = [trace.name for trace in long_traces(0, 30)]
    parser = argparse.ArgumentParser(prog="python -m bench.scaling.long_run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="how many of each trace; default 1")
    parser.add_argument("--trace", action="append", choices=names, help="only this trace")
    parser.add_argument("--age", action="append", type=int, help="only this target age, in seconds")
    parser.add_argument("--policy", action="append", choices=[*NAMES], help="only this scaler")
    parser.add_argument("--read", type=Path, help="play nothing; take the figures of this file")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--document", type=Path, help="write the tables between its markers")
    options = parser.parse_args()
    if options.document:
        PART.check(options.document)
    if options.read:
        text = options.read.read_text(encoding="utf-8")
        played = [LongRow(**row) for row in json.loads(text)]
    else:
        played = rows(
            range(1, options.seeds + 1),
            options.trace or names,
            options.age or AGES_SECONDS,
            options.policy or [*NAMES],
        )
    lines = [*_lines(played, options.seeds)]
    print(*lines, sep="\n")
    if options.json:
        text = json.dumps([asdict(row) for row in played], indent=1)
        options.json.write_text(f"{text}\n", encoding="utf-8")
    if options.document:
        PART.replace(options.document, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
