"""Faults: each is there while its block runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg

from support.chaos.chances import chance_of
from support.chaos.processes import ForkedProcess
from support.chaos.servers import Server, fetch
from support.skipping import skip

TERMINATE = """
select pg_terminate_backend(pid) from pg_stat_activity
where pid <> pg_backend_pid() and datname = current_database()
    and backend_type = 'client backend' and application_name like $1
"""


def terminate_backends(server: Server, application: str = "%") -> int:
    """Terminate the server's side of connections, by a pattern of their application's name."""
    return len(fetch(server.url(), TERMINATE, application))


@contextlib.contextmanager
def again_and_again(do: Callable[[], object], every_seconds: float) -> Iterator[None]:
    """Do something every so often, in a thread; what it raises is raised at the end."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def loop() -> None:
        while not stop.wait(every_seconds):
            try:
                do()
            except BaseException as error:  # noqa: BLE001 - raised again below
                failures.append(error)
                return

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failures:
        raise failures[0]


@contextlib.contextmanager
def frozen(process: ForkedProcess) -> Iterator[None]:
    """Keep a process from running, as an overloaded host or a paused machine does."""
    process.send(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send(signal.SIGCONT)


@contextlib.contextmanager
def stopped(server: Server, mode: str = "immediate") -> Iterator[None]:
    """Take a server away, at once or in order."""
    server.stop(mode)
    try:
        yield
    finally:
        server.start()


@contextlib.contextmanager
def setting(server: Server, name: str, value: str) -> Iterator[None]:
    """Change a setting of the server."""
    server.set(name, value)
    try:
        yield
    finally:
        server.set(name, None)


@contextlib.contextmanager
def full_of_sessions(server: Server, *terminated: str) -> Iterator[None]:
    """Take every connection that is free, as a leaking application does; also those given back.

    Args:
        server: which.
        terminated: whose connections are broken once it is full, by patterns of their
            applications' names.
    """
    stop = threading.Event()
    is_full = threading.Event()

    async def hoard() -> None:
        held: list[asyncpg.Connection[asyncpg.Record]] = []
        while not stop.is_set():
            try:
                held.append(await asyncpg.connect(server.url(), timeout=5))
            except (OSError, asyncpg.PostgresError, TimeoutError):
                if not is_full.is_set():
                    for pattern in terminated:
                        await held[0].execute(TERMINATE, pattern)
                is_full.set()
                await asyncio.sleep(0.02)
        for connection in held:
            connection.terminate()

    thread = threading.Thread(target=asyncio.run, args=(hoard(),))
    thread.start()
    try:
        if not is_full.wait(30):
            message = "the server takes ever more connections"
            raise TimeoutError(message)
        yield
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def locked(server: Server, lock: str) -> Iterator[None]:
    """Hold a lock in a transaction that stays open; `lock` is the statement that takes it."""
    taken, stop = threading.Event(), threading.Event()

    async def hold() -> None:
        connection = await asyncpg.connect(server.url())
        try:
            async with connection.transaction():
                await connection.execute(lock)
                taken.set()
                while not stop.is_set():  # noqa: ASYNC110 - another thread sets it
                    await asyncio.sleep(0.02)
        finally:
            await connection.close()

    thread = threading.Thread(target=asyncio.run, args=(hold(),))
    thread.start()
    try:
        if not taken.wait(30):
            message = f"no lock after 30 s: {lock}"
            raise TimeoutError(message)
        yield
    finally:
        stop.set()
        thread.join()


class Disk:
    """A small file system in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Leave no room on it."""
        with self._ballast.open("wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(65_536))
                file.flush()
        try:
            yield
        finally:
            self._ballast.unlink()


@contextlib.contextmanager
def small_disk(folder: Path, *, megabytes: int) -> Iterator[Disk]:
    """Mount a small file system; the test is skipped for those who may not."""
    if os.geteuid() != 0:
        skip("only root may mount the file systems that run full")
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0711", "tmpfs", str(folder)]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode:
        skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


def pause(seconds: float) -> None:
    """Let a fault last."""
    time.sleep(seconds)


def at_moments(seed: int, count: int, least: float, most: float) -> Iterator[int]:
    """Yield 0 to `count` - 1, each after a pause between `least` and `most` seconds."""
    chance = chance_of(seed)
    for number in range(count):
        pause(chance.uniform(least, most))
        yield number
