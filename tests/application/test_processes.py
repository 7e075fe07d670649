"""An app as a program: `meshhook worker --app`, and `app.run()`, by signal."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meshhook import App, InvalidSettingError, QueueService, get_queue_config
from support.command_line import run_command
from support.waiting import eventually

pytestmark = pytest.mark.timeout(600)

SHOP = """
import asyncio
from pathlib import Path

from pydantic import BaseModel

import meshhook

app = meshhook.App(concurrency=7)

class Order(BaseModel):
    order_id: int

@app.job("orders", max_retry_attempts=9)
async def ship(job: meshhook.Job[Order]) -> None:
    loop = type(asyncio.get_running_loop()).__module__
    with Path("ledger").open("a") as file:
        file.write(f"ship {job.payload.order_id} in {loop}\\n")
    await send.enqueue(job.payload.order_id)

@app.job("mails", weight=2)
def send(order_id: int) -> None:
    with Path("ledger").open("a") as file:
        file.write(f"mail {order_id}\\n")

@app.job("endless")
async def wait(job: meshhook.Job) -> None:
    with Path("ledger").open("a") as file:
        file.write("started\\n")
    await asyncio.Event().wait()

if __name__ == "__main__":
    app.run(grace_seconds=6, name="mine")
    print("ran to its end")
"""


def environment(url: str | None) -> dict[str, str]:
    """Return the environment of a program that is to use a database."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MESHHOOK_")}
    database = {} if url is None else {"MESHHOOK_DATABASE_URL": url}
    return kept | database | {"MESHHOOK_LOG_FORMAT": "json"}


@asynccontextmanager
async def program(folder: Path, url: str | None, *arguments: str) -> AsyncIterator[Any]:
    """Run Python in a folder with the shop in it; killed at the end if it still runs."""
    (folder / "shop.py").write_text(SHOP)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments),
        cwd=folder,
        env=environment(url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ended(process: Any) -> tuple[int, str, str]:
    """Wait for the end of a process; return its code, its output and what it said."""
    out, said = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), said.decode()


def ledger(folder: Path) -> list[str]:
    """Return what the handlers noted."""
    file = folder / "ledger"
    return file.read_text().splitlines() if file.exists() else []


def log(said: str, event: str) -> dict[str, Any]:
    """Return the one line of the log about an event."""
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    [found] = [line for line in lines if line["event"] == event]
    return dict(found)


async def alive(pool: asyncpg.Pool[Any], count: int) -> list[str]:
    """Wait until so many queues are reported by workers, and return them."""

    async def are_there() -> Any:
        rows = await pool.fetch("select queue from meshhook.workers order by queue")
        return [row["queue"] for row in rows] if len(rows) == count else None

    found: list[str] = await eventually(are_there, timeout=100)
    return found


@pytest.mark.parametrize("start", [["-m", "meshhook", "worker", "--app", "shop:app"], ["shop.py"]])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_app_runs_until_a_signal(
    database_url: str,
    pool: asyncpg.Pool[Any],
    tmp_path: Path,
    start: Sequence[str],
    number: signal.Signals,
) -> None:
    """By command or by itself: queues are created, jobs done, what runs is given back, code 0."""
    async with program(tmp_path, database_url, *start) as process:
        assert await alive(pool, 3) == ["endless", "mails", "orders"]
        assert (await get_queue_config(pool, "orders")).max_retry_attempts == 9
        await QueueService[Any](pool, "orders").enqueue({"order_id": 5})
        await eventually(lambda: len(ledger(tmp_path)) == 2)
        assert ledger(tmp_path) == ["ship 5 in uvloop", "mail 5"]
        if start == ["shop.py"]:  # its grace period is short
            await QueueService[Any](pool, "endless").enqueue({})
            await eventually(lambda: len(ledger(tmp_path)) == 3)
        process.send_signal(number)
        code, out, said = await ended(process)
    assert code == 0, said
    assert log(said, "worker started")["concurrency"] == 7
    if start == ["shop.py"]:
        assert out == "ran to its end\n"
        assert log(said, "worker started")["worker"] == "mine"
        states = await pool.fetch("select read_ct from pgmq.q_endless where vt <= now()")
        assert len(states) == 1
    assert await pool.fetchval("select count(*) from meshhook.workers") == 0


async def test_queues_and_slots_may_be_named(
    database_url: str, pool: asyncpg.Pool[Any], tmp_path: Path
) -> None:
    """Each with a weight of its own; the others are not created."""
    arguments = ["-m", "meshhook", "worker", "orders:4", "mails", "--app", "shop:app"]
    async with program(tmp_path, database_url, *arguments, "--concurrency", "3") as process:
        assert await alive(pool, 2) == ["mails", "orders"]
        process.terminate()
        code, _, said = await ended(process)
    assert code == 0
    assert log(said, "worker started")["concurrency"] == 3
    assert await pool.fetchval("select to_regclass('pgmq.q_endless')") is None


async def test_an_app_may_have_several_processes(
    database_url: str, pool: asyncpg.Pool[Any], tmp_path: Path
) -> None:
    """Each imports the app by its name."""
    arguments = ["-m", "meshhook", "worker", "mails", "--app", "shop:app", "--processes", "2"]
    async with program(tmp_path, database_url, *arguments) as process:
        await alive(pool, 2)
        process.terminate()
        code, _, _ = await ended(process)
    assert code == 0


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module `shop` in the current directory of this process, and no database."""
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "own.py").write_text(
        "import meshhook\napp = meshhook.App('postgresql://nobody@127.0.0.1:1/none')\n"
    )
    (tmp_path / "unguarded.py").write_text("from shop import app\napp.run()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setenv("MESHHOOK_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    yield
    for name in ("shop", "own", "unguarded"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what runs the jobs: --app MODULE:APP, or --handler MODULE:FUNCTION"),
        (["--app", "shop:app", "--handler", "shop:ship"], "--app brings its own handlers"),
        (["others", "--app", "shop:app"], "no handler of queue 'others'; it has: orders, mails"),
        (["orders:0", "--app", "shop:app"], "the weight of queue 'orders' is a whole number"),
        (["orders", "orders", "--app", "shop:app"], "queue 'orders' is named twice"),
        (["--app", "own:app"], "the app has no handlers; declare one with @app.job"),
        (["--app", "shop:ap"], "app 'shop:ap': module 'shop' has no 'ap'; did you mean 'app'?"),
        (["--app", "unguarded:app"], "app.run() was called while its module was imported"),
        (["--app", "shop:other"], "has no 'other'; there is: app"),
        (["--app", "shop"], "app 'shop': must be module:app, for example shop.jobs:app"),
        (["--app", "shop.py"], "that is a file; name its module: shop:app"),
        (["--app", "shoop:app"], "there is no module 'shoop' in the current directory"),
        (["--app", "shop:ship"], "ship is of type QueueHandler, not a meshhook.App"),
        (["orders", "--handler", "shop:app"], "that is an app; run its handlers with --app"),
    ],
)
def test_what_the_command_cannot_run_is_named(arguments: list[str], message: str) -> None:
    """Before anything is started, and with the exit code of wrong usage."""
    ended = run_command(["worker", *arguments])
    assert message in ended.err
    assert ended.code == 2


@pytest.mark.usefixtures("shop")
def test_an_app_with_a_database_of_its_own_takes_no_other() -> None:
    """`--embedded` beside it is a contradiction."""
    ended = run_command(["--embedded", "worker", "--app", "own:app"])
    assert "the app names its database itself; leave out --embedded" in ended.err
    assert ended.code == 2


async def test_without_a_database_the_program_says_how_to_name_one(tmp_path: Path) -> None:
    """As the command does, with its exit code."""
    async with program(tmp_path, None, "shop.py") as process:
        code, _, said = await ended(process)
    assert "error: no database is set: export MESHHOOK_DATABASE_URL" in said
    assert code == 2


async def test_a_database_that_is_away_ends_the_program(tmp_path: Path) -> None:
    """With 4, whether the environment names it or the app does."""
    url = "postgresql://nobody@127.0.0.1:1/none"
    own = f"import shop; shop.app.use_database({url!r}); shop.app.run()"
    for given, start in ((url, ["shop.py"]), (None, ["-c", own])):
        async with program(tmp_path, given, *start) as process:
            code, _, said = await ended(process)
        assert code == 4, said
        assert "127.0.0.1:1" in said


async def test_a_program_runs_no_event_loop_within_another(database_url: str) -> None:
    """Nor handles signals in another thread; the error says what to do there."""
    app = App(database_url)
    app.job("orders", payload_model=int)(lambda _: None)
    with pytest.raises(InvalidSettingError, match="inside an event loop use `async with"):
        app.run()
    with pytest.raises(InvalidSettingError, match="only works in the main thread"):
        await asyncio.to_thread(app.run)
