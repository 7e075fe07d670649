"""The messages to enqueue: small ones, and the webhooks in examples/data."""

from __future__ import annotations

import gzip
import json
import random
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

WEBHOOKS = Path(__file__).parent.parent / "examples" / "data" / "github-webhooks.jsonl.gz"
SMALL_TEXT_BYTES = 240
"""With the number and the keys, the payload is about 256 bytes of JSON."""


def messages(kind: str, count: int) -> list[dict[str, Any]]:
    """Return `count` messages, the same in each run.

    Args:
        kind: `small` or `webhooks`.
        count: how many; the webhooks are repeated.
    """
    load = random.Random(1)
    payloads: Iterable[dict[str, Any]]
    if kind == "small":
        payloads = (
            {"i": i, "text": load.randbytes(SMALL_TEXT_BYTES // 2).hex()} for i in range(count)
        )
    else:
        with gzip.open(WEBHOOKS, "rt", encoding="utf-8") as lines:
            payloads = islice(cycle([json.loads(line) for line in lines]), count)
    return [
        {
            "run_id": f"run-{number}",
            "workflow_id": "bench",
            "project_id": "bench",
            "payload": payload,
        }
        for number, payload in enumerate(payloads)
    ]


def unique_keys() -> Iterator[str]:
    """Yield keys that are all different, in no order, the same in each run."""
    load = random.Random(2)
    while True:
        yield f"invoice-{load.getrandbits(64):016x}"
