"""Stopping a worker: waits for the request, then ends its lanes within the grace period."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from meshhook.errors import WorkerFailedError
from meshhook.observability.loggers import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshhook.worker.lane import Lane

_log = get_logger("meshhook.worker")

RELEASE_MARGIN_SECONDS = 2.0
LEAST_SECONDS = 1.0
FAILED_SECONDS = 5.0


async def asked_to_stop(
    stop_requested: asyncio.Event, lanes: Sequence[Lane], tasks: Sequence[asyncio.Task[None]]
) -> None:
    """Wait until the worker is asked to stop. Cancellation also counts as a request.

    Args:
        stop_requested: set by a request.
        lanes: those of all queues; they stop claiming if a part fails.
        tasks: the worker's parts.

    Raises:
        WorkerFailedError: one of the parts was cancelled from outside.
    """
    asked = asyncio.create_task(stop_requested.wait(), name="meshhook-stop")
    try:
        await asyncio.wait([asked, *tasks], return_when=asyncio.FIRST_COMPLETED)
        _miss_cancelled(tasks)
        # If a part has failed, the task group ends this wait.
        await asked
    except BaseException as error:
        # If a part has failed, or the event loop is ending and cancels every task, an orderly
        # shutdown is not possible.
        is_alone = not any(task.done() or task.cancelling() for task in tasks)
        if isinstance(error, asyncio.CancelledError) and is_alone:
            return
        for lane in lanes:
            lane.producer.stop()
        raise
    finally:
        asked.cancel()


async def follow(task: asyncio.Task[None]) -> None:
    """Fail if the task fails; leave it alone if this is cancelled."""
    await asyncio.shield(task)


def _miss_cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Fail if a task was cancelled on its own, which a task group ignores."""
    for task in tasks:
        if task.cancelled():
            raise WorkerFailedError(f"its task {task.get_name()} was cancelled from outside")


async def shut_down(
    lanes: Sequence[Lane], claiming: Sequence[asyncio.Task[None]], *, grace_seconds: float
) -> None:
    """Stop claiming, give back what has not started, let jobs finish, and record all outcomes.

    Args:
        lanes: those of all queues.
        claiming: the tasks of their producers.
        grace_seconds: how long it may take. Running jobs get two seconds less; recording gets at
            least one second from the start, however short the grace period is.
    """
    began_at = time.monotonic()
    deadline = began_at + grace_seconds
    margin = min(RELEASE_MARGIN_SECONDS, grace_seconds / 4)
    for lane in lanes:
        _log.info(
            "worker stops",
            queue=lane.queue_name,
            running=len(lane.held_jobs.running),
            unstarted=lane.held_jobs.unstarted,
        )
        lane.producer.stop()
        lane.releaser.release_unstarted()
    # A claim under way still delivers its jobs; they are given back as well.
    await _until(deadline - margin, asyncio.wait(claiming))
    for task in claiming:
        task.cancel()
    await _until(deadline - margin / 2, asyncio.wait(claiming))
    for lane in lanes:
        lane.releaser.release_unstarted()
    await _until(deadline - margin, _all_idle(lanes))
    if any(lane.held_jobs.running for lane in lanes):
        for lane in lanes:
            lane.executor.stop_jobs()
        await _until(deadline - margin / 2, _all_idle(lanes))
        for lane in lanes:
            _release_stuck(lane)
    await _until(max(deadline, began_at + LEAST_SECONDS), _all_recorded(lanes))
    for lane in lanes:
        await lane.releaser.stop()
        _tell_unrecorded(lane)


async def hand_back(lanes: Sequence[Lane], claiming: Sequence[asyncio.Task[None]]) -> None:
    """Give back what has not ended, and record what has, after the worker's own parts have ended.

    Used if the worker fails, or its event loop ends. It takes up to five seconds; leases that are
    left then expire.

    Args:
        lanes: those of all queues.
        claiming: the tasks of their producers.
    """
    deadline = time.monotonic() + FAILED_SECONDS
    for lane in lanes:
        lane.producer.stop()
    await _until(deadline - FAILED_SECONDS / 2, asyncio.wait(claiming))
    for task in claiming:
        task.cancel()
    await _until(deadline - FAILED_SECONDS / 3, asyncio.wait(claiming))
    for lane in lanes:
        lane.releaser.release_all()
    settling = [
        asyncio.create_task(lane.completer.run(), name=f"meshhook-completer-{lane.queue_name}")
        for lane in lanes
    ]
    await _until(deadline, _all_recorded(lanes))
    for task in settling:
        task.cancel()
    await _until(deadline + LEAST_SECONDS, asyncio.wait(settling))
    for lane in lanes:
        await lane.releaser.stop()
        _tell_unrecorded(lane)


async def _all_idle(lanes: Sequence[Lane]) -> None:
    for lane in lanes:
        await lane.held_jobs.wait_idle()


async def _all_recorded(lanes: Sequence[Lane]) -> None:
    for lane in lanes:
        await lane.all_recorded()


def _tell_unrecorded(lane: Lane) -> None:
    if lane.held_jobs.unsettled:
        _log.error(
            "outcomes not recorded; their jobs run again when their leases end",
            queue=lane.queue_name,
            outcomes=lane.held_jobs.unsettled,
        )


def _release_stuck(lane: Lane) -> None:
    stuck = list(lane.held_jobs.running.jobs.values())
    if stuck:
        _log.error(
            "jobs ignore being stopped; they are given back",
            queue=lane.queue_name,
            msg_ids=[held.key[0] for held in stuck][:20],
        )
        lane.releaser.release_leases(stuck)


async def _until(deadline: float, awaitable: Any) -> None:
    """Wait for something until a moment of the monotonic clock at most."""
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            await awaitable
    except TimeoutError:
        pass
