"""`Worker.run` and signals: it stops at them, and takes them from nobody."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from meshhook import Job
from meshhook.errors import InvalidSettingError
from meshhook.worker.signal_handlers import TakenSignal
from support.waiting import eventually
from support.workers import make_worker

pytestmark = pytest.mark.usefixtures("queue_name")

heard: list[int] = []


async def nothing(_: Job[Any]) -> None:
    """Do nothing."""


def listen(number: int, _: object) -> None:
    """Take note of a signal."""
    heard.append(number)


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    """Give this process handlers of its own: no signal ends it, whatever goes wrong."""
    heard.clear()
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, listen) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def started(worker: Any) -> None:
    """Wait until a worker claims."""
    await eventually(lambda: bool(worker.liveness()))


def send(number: int = signal.SIGTERM) -> None:
    """Send this process a signal."""
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_handler_of_the_process_is_called_too(
    database_url: str, number: signal.Signals
) -> None:
    """The worker stops, the program hears the signal, and its handler is there afterwards."""
    worker = make_worker(database_url, nothing)
    task = asyncio.create_task(worker.run())
    await started(worker)
    send(number)
    await asyncio.wait_for(task, 60)
    assert heard == [number]
    assert signal.getsignal(number) is listen


async def test_a_handler_of_the_event_loop_is_called_too(database_url: str) -> None:
    """As web servers set it; it is there after the worker has stopped."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, heard.append, 1)
    try:
        worker = make_worker(database_url, nothing)
        task = asyncio.create_task(worker.run())
        await started(worker)
        send()
        await asyncio.wait_for(task, 60)
        await eventually(lambda: heard == [1])
        send()
        await eventually(lambda: heard == [1, 1])
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def test_a_handler_of_uvloop_is_called_too(database_url: str) -> None:
    """Its event loop hears signals by a way of its own."""

    async def main() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, heard.append, 1)
        worker = make_worker(database_url, nothing)
        task = asyncio.create_task(worker.run())
        await started(worker)
        send()
        await asyncio.wait_for(task, 60)
        await eventually(lambda: heard == [1])
        send()
        await eventually(lambda: heard == [1, 1])

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def test_several_workers_stop_at_one_signal(database_url: str) -> None:
    """In whatever order they were started, and others stopped."""
    workers = [make_worker(database_url, nothing) for _ in range(4)]
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    for worker in workers:
        await started(worker)
    for stopped in (0, 2):
        workers[stopped].request_stop()
        await asyncio.wait_for(tasks[stopped], 60)
    assert not tasks[1].done()
    assert not tasks[3].done()
    send()
    await asyncio.wait_for(asyncio.gather(*tasks), 60)
    assert heard == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is listen


async def test_a_handler_that_is_set_later_is_left_alone(database_url: str) -> None:
    """A server that takes the signal after the worker has it keeps it, and may put ours back.

    What it puts back then does what was done before.
    """
    worker = make_worker(database_url, nothing)
    task = asyncio.create_task(worker.run())
    await started(worker)
    later: list[int] = []
    ours = signal.signal(signal.SIGTERM, lambda number, _: later.append(number))
    assert isinstance(ours, TakenSignal)
    worker.request_stop()
    await asyncio.wait_for(task, 60)
    send()
    assert (later, heard) == ([signal.SIGTERM], [])
    signal.signal(signal.SIGTERM, ours)
    send()
    assert heard == [signal.SIGTERM]


async def test_a_server_keeps_its_sighup(database_url: str) -> None:
    """A handler of SIGHUP, for reading settings anew, is no reason to stop."""
    worker = make_worker(database_url, nothing)
    task = asyncio.create_task(worker.run())
    await started(worker)
    send(signal.SIGHUP)
    assert heard == [signal.SIGHUP]
    assert not worker._stop_requested.is_set()
    worker.request_stop()
    await asyncio.wait_for(task, 60)


async def test_a_second_interrupt_reaches_python(database_url: str) -> None:
    """The first Ctrl-C stops the worker in order; the next is for the program."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    worker = make_worker(database_url, nothing)
    task = asyncio.create_task(worker.run())
    await started(worker)
    handler: Any = signal.getsignal(signal.SIGINT)
    handler(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        handler(signal.SIGINT, None)
    await asyncio.wait_for(task, 60)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_signals_outside_of_the_main_thread_are_refused(database_url: str) -> None:
    """Only the main thread may handle them: the error says what to do."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(make_worker(database_url, nothing).run())
        except InvalidSettingError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert "handle_signals=False" in str(errors[0])
