"""The program `meshhook`: its commands, its own options, and how it ends."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from meshhook.cli import (
    demo,
    dlq,
    enqueue,
    exporter,
    jobs,
    migrate,
    queue,
    roles,
    serve_postgres,
    stats,
    worker,
    workers,
)
from meshhook.cli.failures import EXIT_CODES_HELP, ExitCode, UsageError, describe, exit_code
from meshhook.cli.options import PROGRAM, ProgramOptions, example
from meshhook.escaping import shown_sentence

if TYPE_CHECKING:
    from meshhook.cli.applications import Application

app = typer.Typer(
    name=PROGRAM,
    help="Job queues on PostgreSQL and PGMQ.",
    epilog=(
        "The database is the one that MESHHOOK_DATABASE_URL names, as "
        "postgresql://user:password@host:5432/name.\n\n"
        + EXIT_CODES_HELP
        + "\n\n"
        + example("meshhook --embedded queue create workflow_jobs")
    ),
    no_args_is_help=True,
    # Plain help: rich takes a third of a second to load.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
for group, name in ((migrate, "migrate"), (queue, "queue"), (roles, "roles")):
    app.add_typer(group.app, name=name)
enqueue.add_to(app)
worker.add_to(app)
exporter.add_to(app)
for group, name in ((jobs, "jobs"), (dlq, "dlq")):
    app.add_typer(group.app, name=name)
stats.add_to(app)
workers.add_to(app)
demo.add_to(app)
serve_postgres.add_to(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("meshhook-queue")
        except PackageNotFoundError:
            found = "(not installed)"
        typer.echo(f"meshhook-queue {found}")
        raise typer.Exit


@app.callback()
def _program(
    context: typer.Context,
    embedded: Annotated[
        bool,
        typer.Option(
            "--embedded",
            envvar="MESHHOOK_EMBEDDED",
            help=(
                "Use a PostgreSQL of your own in .meshhook/, made and migrated when needed. "
                "It stops when the last command that uses it ends; its data stay."
            ),
        ),
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    del version
    context.obj = replace(context.obj or ProgramOptions(), embedded=embedded)


def run(arguments: Sequence[str], *, application: Application | None = None) -> int:
    """Run one command, print what went wrong, and return the exit code.

    Args:
        arguments: the command and what stands behind it.
        application: the app that runs as this command. Default none.
    """
    for stream in (sys.stdout, sys.stderr):
        # Messages and errors come in every script, and a terminal may have one only.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    command = typer.main.get_command(app)
    try:
        result = command.main(
            args=list(arguments),
            prog_name=PROGRAM,
            standalone_mode=False,
            obj=ProgramOptions(arguments=tuple(arguments), application=application),
        )
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:
        # typer makes the first into the second.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        # Whoever read the output has left, `| head` for one. Nor can the rest be flushed at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.PIPE_CLOSED
    except (KeyboardInterrupt, typer.Abort):
        _print_error(describe(KeyboardInterrupt()))
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - a command ends here, with a message and a code
        return _fail(error)
    if result == ExitCode.INTERRUPTED:  # newer versions of typer make a code of it, and say nothing
        _print_error(describe(KeyboardInterrupt()))
    return result if isinstance(result, int) else ExitCode.OK


def _fail(error: Exception) -> int:
    context = getattr(error, "ctx", None)
    # The argument parser's own errors; which classes they are depends on the version of typer.
    if hasattr(error, "format_message"):
        if type(error).__name__ == "NoArgsIsHelpError":
            _print_error(error.format_message())
            return ExitCode.BAD_INPUT
        path = PROGRAM if context is None else context.command_path
        message = " ".join(error.format_message().split())
        if "--embedded" in message and path != PROGRAM:
            message = "--embedded stands before the command, as in: meshhook --embedded queue list"
        _print_error(describe(UsageError(f"{message}\nsee: {path} --help")))
        return ExitCode.BAD_INPUT
    if os.environ.get("MESHHOOK_LOG_LEVEL", "").lower() == "debug":
        from meshhook.observability.redaction import hide_in_text

        trace = hide_in_text("".join(traceback.format_exception(error)))
        _print_error(shown_sentence(trace.rstrip()))
    _print_error(describe(error))
    return exit_code(error)


def _print_error(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
