"""Play every trace against every scaler, and write the results.

`python -m bench.scaling.run --json FILE --document docs/scaling.md` writes the published figures.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from bench.scaling.contract import Policy, Result, best_of
from bench.scaling.keda_policy import TUNINGS, by_default, in_hindsight, tuned
from bench.scaling.meshhook_policy import MeshHook
from bench.scaling.oracle_policy import Oracle
from bench.scaling.results import PART, Row, show, write
from bench.scaling.traces import Trace, traces
from bench.scaling.world import World, run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

AGES_SECONDS = (15, 60, 300)
DRIFT_SECOND = 2_000
"""When the rate of a replica changes: after every scaler knows it."""
WOBBLE_SECONDS = 700
WOBBLES = (1.0, 0.4, 1.6, 0.7, 2.0)
DRIFTS = {
    "constant": lambda _second: 1.0,
    "halves": lambda second: 1.0 if second < DRIFT_SECOND else 0.5,
    "triples": lambda second: 1.0 if second < DRIFT_SECOND else 3.0,
    "wobbles": lambda second: WOBBLES[second // WOBBLE_SECONDS % len(WOBBLES)],
}
POLICIES: dict[str, Callable[[World], Policy[World]]] = {
    "meshhook": MeshHook,
    "keda": by_default,
    "keda tuned": tuned,
    "oracle": Oracle,
}
HINDSIGHT = "keda hindsight"
LATE_SHARE = 0.001


def play(trace: Trace, policy: str, *, seed: int, age_seconds: int, drift: str) -> Result:
    """Play a trace once."""
    if policy == HINDSIGHT:
        return _best_tuning(trace, seed=seed, age_seconds=age_seconds, drift=drift)
    world = _world(trace, seed, age_seconds, drift)
    return run(world, POLICIES[policy](world))


def _world(trace: Trace, seed: int, age_seconds: int, drift: str) -> World:
    return World(trace, seed=seed, speed=DRIFTS[drift], target_age_seconds=age_seconds)


def _best_tuning(trace: Trace, *, seed: int, age_seconds: int, drift: str) -> Result:
    """Return the cheapest of many tunings that keeps the target age, or the least late."""

    def tried(tuning: int) -> Result:
        world = _world(trace, seed, age_seconds, drift)
        policy: Policy[World] = in_hindsight(world, tuning)
        return run(world, policy)

    results = [tried(tuning) for tuning in range(len(TUNINGS))]
    return best_of(results, LATE_SHARE)


def rows(
    seeds: Sequence[int],
    names: Sequence[str],
    ages_seconds: Sequence[int],
    drifts: Sequence[str],
    policies: Sequence[str],
) -> list[Row]:
    """Play everything, and return a row for each age, drift, trace and scaler."""
    by_seed = {seed: {trace.name: trace for trace in traces(seed)} for seed in seeds}
    return [
        _row(
            by_seed[seeds[0]][name],
            age_seconds,
            drift,
            policy,
            [
                play(by_seed[seed][name], policy, seed=seed, age_seconds=age_seconds, drift=drift)
                for seed in seeds
            ],
        )
        for age_seconds, drift, name, policy in product(ages_seconds, drifts, names, policies)
    ]


def _row(trace: Trace, age_seconds: int, drift: str, policy: str, results: list[Result]) -> Row:
    return Row(
        trace=trace.name,
        is_steady=trace.is_steady,
        target_age_seconds=age_seconds,
        drift=drift,
        policy=policy,
        late_share=max(result.late_share for result in results),
        p99_wait_seconds=max(result.p99_wait_seconds for result in results),
        replica_seconds=round(mean(result.replica_seconds for result in results)),
        scale_events=round(mean(result.scale_events for result in results)),
        most_replicas=max(result.most_replicas for result in results),
    )


def main() -> None:
    """Read the options, play, and write."""
    names = [trace.name for trace in traces(0)]
    policies = [*POLICIES, HINDSIGHT]
    parser = argparse.ArgumentParser(prog="python -m bench.scaling.run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="how many of each trace; default 1")
    parser.add_argument("--trace", action="append", choices=names, help="only this trace")
    parser.add_argument("--age", action="append", type=int, help="only this target age, in seconds")
    parser.add_argument("--drift", action="append", choices=[*DRIFTS], help="only this drift")
    parser.add_argument("--policy", action="append", choices=policies, help="only this scaler")
    parser.add_argument("--read", action="append", type=Path, help="take the figures of this file")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--document", type=Path, help="write the tables between its markers")
    parser.add_argument("--plot", type=Path, help="draw into this folder; needs matplotlib")
    options = parser.parse_args()
    if options.document:
        PART.check(options.document)
    if options.read:
        texts = [file.read_text(encoding="utf-8") for file in options.read]
        played = [Row(**row) for text in texts for row in json.loads(text)]
    else:
        played = rows(
            range(1, options.seeds + 1),
            options.trace or names,
            options.age or AGES_SECONDS,
            options.drift or [*DRIFTS],
            options.policy or policies,
        )
    show(played)
    if options.json:
        text = json.dumps([asdict(row) for row in played], indent=1)
        options.json.write_text(f"{text}\n", encoding="utf-8")
    if options.document:
        write(played, options.document, seeds=options.seeds)
    if options.plot:
        from bench.scaling.plot import draw  # noqa: PLC0415 - matplotlib is needed for this alone

        draw(options.plot, played)


if __name__ == "__main__":
    main()
