"""One measurement in a process of its own: a JSON request on standard input, a JSON result out.

The request is {"subject", "url", "measure", "parameters"}; the measure `install` makes the tables.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from typing import Any

from measures import MEASURES

try:
    import uvloop
except ImportError:  # not every peer's environment has it
    uvloop = None


async def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Measure, and return the result."""
    subject = importlib.import_module(f"subjects.{request['subject']}").Subject
    if request["measure"] == "install":
        versions: dict[str, Any] = await subject.install(request["url"])
        return versions
    measure = MEASURES[request["measure"]]
    return await measure(subject(request["url"]), **request["parameters"])


if __name__ == "__main__":
    run = asyncio.run if uvloop is None else uvloop.run
    print(json.dumps(run(answer(json.load(sys.stdin)))))
