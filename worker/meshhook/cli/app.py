"""The program `meshhook`: its commands, its own options, and how it ends."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from meshhook.cli.failures import EXIT_CODES_HELP, ExitCode, UsageError, describe, exit_code
from meshhook.cli.lazy_group import LazyGroup
from meshhook.cli.options import PROGRAM, ProgramOptions, example
from meshhook.escaping import shown_sentence
from meshhook.observability.loggers import get_logger
from meshhook.observability.redaction import hide_in_text

if TYPE_CHECKING:
    from meshhook.cli.applications import Application

_log = get_logger("meshhook.uncaught")


class _Commands(LazyGroup):
    """The commands, in the order of the help text."""

    package = "meshhook.cli"
    summaries: ClassVar[Mapping[str, str]] = {
        "migrate": "Install PGMQ and the MeshHook tables, or bring them up to date.",
        "queue": "Create, show, configure, pause, purge and drop queues.",
        "enqueue": "Enqueue one job, or one job per line of input.",
        "publish": "Enqueue one job in each queue that is bound to a topic.",
        "worker": "Run the jobs of queues until SIGTERM or Ctrl-C.",
        "workers": "List the workers that are alive, and what they are doing.",
        "keys": "Show the keys of a queue, set weights and limits, hold keys.",
        "encryption": "Make encryption keys, and encrypt messages anew with another.",
        "groups": "Show groups of jobs, and how far each has come.",
        "schedule": "Enqueue jobs at due times: add, pause, run and delete schedules.",
        "jobs": "Find, cancel and reschedule jobs, and show the whole history of one.",
        "dlq": "Show, replay and delete dead letters.",
        "stats": "Show queues now and over the last 24 hours, or live.",
        "console": "Serve the browser console until SIGTERM or Ctrl-C.",
        "exporter": "Export the metrics of all queues until SIGTERM or Ctrl-C.",
        "doctor": "Look for what is wrong, and say the way out.",
        "audit": "Show and export who changed what.",
        "roles": "Create, grant and check least-privilege database roles.",
        "demo": "Watch 2,000 webhooks survive a killed worker.",
        "serve-postgres": "Serve the embedded PostgreSQL over the network until SIGTERM.",
    }


app = typer.Typer(
    name=PROGRAM,
    cls=_Commands,
    help="Job queues on PostgreSQL and PGMQ.",
    epilog=(
        "MESHHOOK_DATABASE_URL names the database: "
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


def _print_version(wanted: bool) -> None:
    if wanted:
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
                "Use a PostgreSQL of your own in .meshhook/, created and migrated when needed. "
                "It stops when the last command that uses it ends, and keeps its data."
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


def all_commands() -> Any:
    """Return the program with every command imported, for tests and documentation."""
    program: Any = typer.main.get_command(app)
    program.load_all()
    return program


def run(arguments: Sequence[str], *, application: Application | None = None) -> int:
    """Run one command, print what went wrong, and return the exit code.

    Args:
        arguments: the command and its own arguments.
        application: the app that runs as this command. Default none.
    """
    for stream in (sys.stdout, sys.stderr):
        # Messages and errors may be in any script, while the terminal may support only one.
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
        # typer turns the first into the second.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        # Whatever read the output is gone (`| head`, say), so the rest cannot be flushed at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.PIPE_CLOSED
    except (KeyboardInterrupt, typer.Abort):
        _print_error(describe(KeyboardInterrupt()))
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - a command ends here, with a message and a code
        return _fail(error)
    if result == ExitCode.INTERRUPTED:  # newer versions of typer return the code without a message
        _print_error(describe(KeyboardInterrupt()))
    return result if isinstance(result, int) else ExitCode.OK


def _fail(error: Exception) -> int:
    # The argument parser's own errors; their classes depend on the version of typer.
    if hasattr(error, "format_message"):
        _print_error(_usage_message(error))
        return ExitCode.BAD_INPUT
    if os.environ.get("MESHHOOK_LOG_LEVEL", "").lower() == "debug":
        trace = hide_in_text("".join(traceback.format_exception(error)))
        _print_error(shown_sentence(trace.rstrip()))
    _print_error(describe(error))
    return exit_code(error)


def _usage_message(error: Any) -> str:
    if type(error).__name__ == "NoArgsIsHelpError":
        return str(error.format_message())
    context = getattr(error, "ctx", None)
    path = PROGRAM if context is None else context.command_path
    message = " ".join(error.format_message().split())
    # What pydantic, with which typer checks values, puts before the reason.
    message = message.replace(": Value error, ", ": ", 1)
    if "--embedded" in message and path != PROGRAM:
        message = "--embedded goes before the command, as in: meshhook --embedded queue list"
    return describe(UsageError(f"{message}\nsee: {path} --help"))


def log_uncaught() -> None:
    """Log what nobody handles: errors of threads, of destructors and of the program itself.

    Python would print them as they are, with whatever secrets they hold. Only for a program; a
    library leaves these hooks alone.
    """
    sys.excepthook = _log_from_program
    sys.unraisablehook = _log_from_destructor
    threading.excepthook = _log_from_thread


def _log_from_program(
    _: type[BaseException], error: BaseException, __: TracebackType | None
) -> None:
    _log.error("the program failed", exc_info=error)


def _log_from_destructor(found: sys.UnraisableHookArgs) -> None:
    _log.error(found.err_msg or "an error was passed over", exc_info=found.exc_value)


def _log_from_thread(found: threading.ExceptHookArgs) -> None:
    if isinstance(found.exc_value, SystemExit):
        return  # as Python does
    name = None if found.thread is None else found.thread.name
    _log.error("a thread failed", thread=name, exc_info=found.exc_value)


def _print_error(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
