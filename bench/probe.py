"""One measurement in a process of its own: a JSON request on standard input, a JSON result out.

The request is {"subject", "url", "measure", "parameters"}; the measure `install` makes the tables.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import platform
import sys
from typing import Any

from bench.degradation import connections, drain_behind, drain_scraped, held_transaction
from bench.keyed import binding_limit, claim_keyed, drain_keyed, flood, held_keyed, shares
from bench.latency import end_to_end, pick_up
from bench.measures import drain, enqueue, enqueue_many

try:
    import uvloop
except ImportError:  # not every peer's environment has it
    uvloop = None  # type: ignore[assignment]

MEASURES = {
    measure.__name__: measure
    for measure in (
        binding_limit,
        claim_keyed,
        connections,
        drain,
        drain_behind,
        drain_keyed,
        drain_scraped,
        end_to_end,
        enqueue,
        enqueue_many,
        flood,
        held_keyed,
        held_transaction,
        pick_up,
        shares,
    )
}
OWN_SUBJECTS = {"meshhook", "pgmq"}
"""Those that may use MeshHook Queue; raw PGMQ does so to install PGMQ, and for nothing else."""


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Measure, and return the result."""
    subject = importlib.import_module(f"bench.subjects.{request['subject']}").Subject
    run = uvloop.run if uvloop is not None and subject.uvloop else asyncio.run
    if request["measure"] == "install":
        versions: dict[str, Any] = run(subject.install(request["url"]))
        result = {"versions": versions, "python": platform.python_version()}
    else:
        measure = MEASURES[request["measure"]]
        result = run(measure(subject(request["url"]), **request["parameters"]))
    if request["subject"] not in OWN_SUBJECTS and "meshhook" in sys.modules:
        raise RuntimeError(f"{request['subject']} ran with MeshHook Queue in its process")
    return result


if __name__ == "__main__":
    print(json.dumps(answer(json.load(sys.stdin))))
