"""What encryption costs: a message alone, and enqueuing and running jobs with keys beside without.

    python -m bench.encryption cipher --rounds 9
    python -m bench.encryption drain --jobs 20000 --rounds 5

`cipher` needs no database. `drain` makes its queues on a throw-away server; runs with and without
keys take turns. Both print a JSON object a line: medians of all rounds, of this process's CPU time,
so that what else the machine does counts for little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg

from meshhook.administration import create_queue
from meshhook.embedded import EmbeddedPostgres
from meshhook.encryption.envelope import Place
from meshhook.encryption.key_ring import KeyRing
from meshhook.encryption.messages import decrypted_body, encrypted_body
from meshhook.jobs import Job
from meshhook.queues import QueueService
from meshhook.schema import migrate
from meshhook.worker import Worker

RING = KeyRing({"k1": bytes(range(32))})
SIZES = {"256 B": 256, "8 KB": 8_192, "1 MB": 1_048_576}
CIPHER_BYTES = 33_554_432
"""How much a round of `cipher` encrypts of each size, but no more than 20,000 messages."""
CHUNK_JOBS = 1_000


def measure_cipher(rounds: int) -> None:
    """Encrypt and decrypt messages of each size."""
    for name, size in SIZES.items():
        body = json.dumps({"run_id": "run-1", "payload": {"text": "x" * (size - 45)}})
        times = min(CIPHER_BYTES // size, 20_000)
        sealed = encrypted_body(body, RING, Place("queue", "jobs"), max_bytes=10**9)
        # As PostgreSQL gives it back.
        stored = json.dumps(json.loads(sealed))

        def encrypt(body: str = body) -> None:
            encrypted_body(body, RING, Place("queue", "jobs"), max_bytes=10**9)

        def decrypt(stored: str = stored) -> None:
            decrypted_body(stored, RING, "jobs")

        found = {
            what: statistics.median(_microseconds(call, times) for _ in range(rounds))
            for what, call in (("encrypt", encrypt), ("decrypt", decrypt))
        }
        _print(
            "cipher",
            size=name,
            encrypt_us=round(found["encrypt"], 1),
            decrypt_us=round(found["decrypt"], 1),
            stored_ratio=round(len(stored) / len(body), 2),
            rounds=rounds,
        )


def _microseconds(call: Callable[[], None], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - began) / times * 1e6


async def measure_drain(url: str, jobs: int, rounds: int) -> None:
    """Enqueue jobs and run them, with keys and without in turns."""
    connection = await asyncpg.connect(url)
    await migrate(connection)
    found: dict[str, list[dict[str, float]]] = {"plain": [], "encrypted": []}
    for turn in range(rounds):
        order = list(found)
        for name in order if turn % 2 == 0 else order[::-1]:
            queue = f"{name}_{turn}"
            await create_queue(connection, queue)
            ring = RING if name == "encrypted" else None
            found[name].append(await _round(url, queue, jobs, ring))
    await connection.close()
    medians = {
        name: {what: statistics.median(each[what] for each in done) for what in done[0]}
        for name, done in found.items()
    }
    for name, median in medians.items():
        _print("drain", kind=name, **{what: round(each, 1) for what, each in median.items()})
    ratios = [
        encrypted["jobs_per_second"] / plain["jobs_per_second"]
        for plain, encrypted in zip(found["plain"], found["encrypted"], strict=True)
    ]
    _print("drain", ratio=round(statistics.median(ratios), 2), rounds=rounds, jobs=jobs)


async def _round(url: str, queue: str, jobs: int, ring: KeyRing | None) -> dict[str, float]:
    payload = {"run_id": "run-1", "payload": {"text": "x" * 211}}
    began = time.process_time()
    async with QueueService[Any](url, queue, encryption=ring) as service:
        for _ in range(0, jobs, CHUNK_JOBS):
            await service.enqueue_many([payload] * CHUNK_JOBS)
    enqueued = time.process_time()
    done = asyncio.Event()
    seen = 0

    async def handle(job: Job[Any]) -> None:
        nonlocal seen
        seen += "text" in job.payload
        if seen >= jobs:
            done.set()

    began_at = time.monotonic()
    async with Worker(url, queue, handle, encryption=ring, concurrency=200):
        await done.wait()
        seconds = time.monotonic() - began_at
    return {
        "enqueue_us": (enqueued - began) / jobs * 1e6,
        "run_us": (time.process_time() - enqueued) / jobs * 1e6,
        "jobs_per_second": jobs / seconds,
    }


def _print(measure: str, **figures: Any) -> None:
    print(json.dumps({"measure": measure} | figures), flush=True)


def main() -> None:
    """Measure what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.encryption", description=__doc__)
    parser.add_argument("measure", choices=["cipher", "drain"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=20_000, help="a multiple of 1,000")
    given = parser.parse_args()
    if given.measure == "cipher":
        measure_cipher(given.rounds)
        return
    with tempfile.TemporaryDirectory(prefix="meshhook-bench-") as directory:
        server = EmbeddedPostgres(Path(directory) / "postgres")
        url = server.start()
        try:
            asyncio.run(measure_drain(url, given.jobs, given.rounds))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
