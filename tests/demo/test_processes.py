"""The programs that the demo starts: none fails unseen, and none stays behind."""

import asyncio
import sys

import psutil
import pytest

from meshhook.demo.processes import DemoError, start_program, start_receivers
from support.waiting import eventually

ARGUMENTS = ("--seed", "1", "--down", "none")
PARENT = """
import asyncio, pathlib, sys
from meshhook.demo.processes import start_program

async def main():
    program = await start_program(
        "sleeper", ["timeit", "-n1", "-r1", "-s", "import time", "time.sleep(60)"],
        environment={}, directory=pathlib.Path(sys.argv[1]))
    print(program.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that nobody has reaped yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_program_that_ends_early_is_reported_with_its_output(tmp_path):
    """Whoever runs the demo sees why, without having to look for a log."""
    program = await start_program(
        "worker 1", ["no_such_module"], environment={}, directory=tmp_path
    )
    await program.process.wait()

    with pytest.raises(DemoError, match=r"(?s)worker 1.*exit code 1.*No module named"):
        program.check()


async def test_a_receiver_without_a_secret_is_reported_with_its_output(tmp_path):
    """The message is that of the receiver itself."""
    with pytest.raises(DemoError, match="set WEBHOOK_SECRET"):
        await start_receivers(*ARGUMENTS, environment={"WEBHOOK_SECRET": ""}, directory=tmp_path)


async def test_killing_a_program_twice_is_harmless(tmp_path):
    """Cleaning up does not ask what has ended already."""
    program = await start_program("worker 1", ["asyncio"], environment={}, directory=tmp_path)
    await program.kill()
    await program.kill()

    assert not program.is_running
    await eventually(lambda: not is_alive(program.pid))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux does this")
async def test_a_program_ends_with_the_demo_that_started_it(tmp_path):
    """Also when the demo is killed and cannot clean up."""
    demo = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", PARENT, str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert demo.stdout
    pid = int(await demo.stdout.readline())
    assert is_alive(pid)

    demo.kill()
    await demo.wait()
    await eventually(lambda: not is_alive(pid))


async def test_a_receiver_whose_demo_was_killed_stops_by_itself(tmp_path):
    """It watches the pipe that the demo holds, and leaves no server behind."""
    secret = {"WEBHOOK_SECRET": "whsec_c2VjcmV0c2VjcmV0c2VjcmV0"}
    program, _ = await start_receivers(*ARGUMENTS, environment=secret, directory=tmp_path)
    assert program.process.stdin
    program.process.stdin.close()

    async with asyncio.timeout(60):
        assert await program.process.wait() == 0
