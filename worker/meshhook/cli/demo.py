"""`meshhook demo`: 2,000 webhooks, a receiver that sometimes fails, and a killed worker."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from meshhook.cli.connecting import Target, target
from meshhook.cli.failures import LostJobsError, UsageError
from meshhook.cli.options import PROGRAM, JsonOption, command_app, example
from meshhook.cli.output import print_json
from meshhook.cli.tables import console
from meshhook.demo.display import LiveReporter, QuietReporter, print_summary
from meshhook.demo.progress import Reporter
from meshhook.demo.results import DemoResult

app = command_app()


@app.command(
    "demo",
    epilog=example("meshhook demo", "meshhook demo --jobs 500 --json"),
)
def demo(
    context: typer.Context,
    jobs: Annotated[int, typer.Option(min=1, help="How many webhooks to deliver.")] = 2_000,
    workers: Annotated[int, typer.Option(min=1, help="How many worker processes.")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Deliver real webhooks with two workers, kill one of them halfway, and count lost jobs.

    It uses the database that MESHHOOK_DATABASE_URL names, or else the embedded one in .meshhook/.
    It creates the queue workflow_jobs, and replaces the one that an earlier demo created, but
    leaves a queue of yours alone and stops.
    """
    check_demo_extras()
    from meshhook.demo.run import run_demo  # noqa: PLC0415 - needs the extra

    async def play(found: Target, reporter: Reporter) -> DemoResult:
        await found.check()
        return await run_demo(found.url, reporter=reporter, jobs=jobs, workers=workers)

    with target(context, or_embedded=True) as found:
        is_embedded = found.is_embedded
        if as_json:
            result = asyncio.run(play(found, QuietReporter()))
        else:
            with LiveReporter(console()) as reporter:
                result = asyncio.run(play(found, reporter))
    if as_json:
        print_json(result)
    else:
        print_summary(console(), result, program=_program(is_embedded=is_embedded))
    if result.lost:
        raise LostJobsError(result.lost)


def _program(*, is_embedded: bool) -> str:
    """Return how to call this program from here, for the suggested commands."""
    own, on_path = Path(sys.argv[0]), shutil.which(PROGRAM)
    if own.name == "__main__.py":
        program = f"{shlex.quote(sys.executable)} -m {PROGRAM}"
    elif on_path is not None and own.exists() and Path(on_path).samefile(own):
        program = PROGRAM
    else:  # by its name alone the shell would find nothing, or another installation
        program = shlex.quote(sys.argv[0])
    return f"{program} --embedded" if is_embedded else program


def check_demo_extras() -> None:
    """Raise UsageError if a package is missing that the demo needs in addition."""
    missing = [name for name in ("aiohttp", "standardwebhooks") if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"the demo needs {' and '.join(missing)}: pip install 'meshhook-queue[demo]'"
        )
