"""What the harness asks for: in environment variables, and in lines on standard input."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast, get_args

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

SCENARIO = "long_horizon"
ProducerMode = Literal["fixed", "depth-target"]
Pacing = Literal["harness", "adapter", "either"]


class ControlError(Exception):
    """The harness asks for something that there is not."""


@dataclass(frozen=True, slots=True)
class Controls:
    """One run, as the harness wants it."""

    database_url: str
    producer_mode: ProducerMode
    producer_rate: float
    """Jobs a second, in the mode `fixed`."""
    producer_batch_max: int
    """The most jobs of one insert."""
    producer_batch_seconds: float
    """How often the producer looks what is due."""
    pacing: Pacing
    """Who says when to insert: `harness` on standard input, `adapter` by the rate; `either` is by
    the rate until the first line comes."""
    target_depth: int
    """Jobs to keep waiting, in the mode `depth-target`."""
    worker_count: int
    """How many jobs run at once."""
    payload_bytes: int
    work_seconds: float
    """How long a job waits."""
    sample_seconds: int
    window_seconds: int
    """Over how long latencies are told."""
    instance_id: int
    produces: bool
    """Whether this instance inserts jobs."""

    @property
    def observes(self) -> bool:
        """Whether this instance tells what is the same for all."""
        return self.instance_id == 0


def read_controls(environment: Mapping[str, str] = os.environ) -> Controls:
    """Read the environment.

    Raises:
        ControlError: naming the variable.
    """

    def number(name: str, default: float, least: float) -> float:
        text = environment.get(name) or str(default)
        try:
            value = float(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise ControlError(f"{name} is a number of at least {least:g}, got {text!r}")
        return value

    def choice(name: str, default: str, choices: tuple[str, ...]) -> str:
        text = environment.get(name) or default
        if text not in choices:
            raise ControlError(f"{name} is one of {', '.join(choices)}, got {text!r}")
        return text

    if not (url := environment.get("DATABASE_URL")):
        raise ControlError("DATABASE_URL is not set; it names the database to use")
    choice("SCENARIO", SCENARIO, (SCENARIO,))
    instance = int(number("BENCH_INSTANCE_ID", 0, 0))
    only_first = number("PRODUCER_ONLY_INSTANCE_ZERO", 0, 0) > 0
    mode = cast("ProducerMode", choice("PRODUCER_MODE", "fixed", get_args(ProducerMode)))
    pacing = cast("Pacing", choice("PRODUCER_PACING", "either", get_args(Pacing)))
    return Controls(
        database_url=url.replace("postgres://", "postgresql://", 1),
        producer_mode=mode,
        producer_rate=number("PRODUCER_RATE", 800, 0),
        producer_batch_max=int(number("PRODUCER_BATCH_MAX", 128, 1)),
        producer_batch_seconds=number("PRODUCER_BATCH_MS", 25, 1) / 1e3,
        pacing=pacing,
        target_depth=int(number("TARGET_DEPTH", 1000, 0)),
        worker_count=int(number("WORKER_COUNT", 32, 1)),
        payload_bytes=int(number("JOB_PAYLOAD_BYTES", 256, 0)),
        work_seconds=number("JOB_WORK_MS", 1, 0) / 1e3,
        sample_seconds=int(number("SAMPLE_EVERY_S", 5, 1)),
        window_seconds=int(number("LATENCY_WINDOW_MS", 30_000, 1_000) / 1e3),
        instance_id=instance,
        produces=not only_first or instance == 0,
    )


def read_orders(on_order: Callable[[int], None], loop: asyncio.AbstractEventLoop) -> None:
    """Call `on_order` in the loop with n for each line `ENQUEUE n` on standard input.

    Other lines are left alone: a later version of the harness may say more.
    """

    def read() -> None:
        buffer = b""
        # Not `sys.stdin`: its lock would be held by this thread when the interpreter ends.
        while data := os.read(0, 65_536):
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                word, _, count = line.strip().partition(b" ")
                if word == b"ENQUEUE" and count.isdigit():
                    loop.call_soon_threadsafe(on_order, int(count))

    threading.Thread(target=_quietly(read), name="orders", daemon=True).start()


def _quietly(read: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        try:
            read()
        except (OSError, RuntimeError):
            # Standard input is closed, or the loop has ended before a line came.
            return

    return run
