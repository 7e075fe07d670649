"""Options of the program as a whole, and arguments that several commands share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshhook.cli.failures import UsageError
from meshhook.priorities import Priority, checked_priority
from meshhook.retry import policy_from_header

if TYPE_CHECKING:
    from meshhook.cli.applications import Application
    from meshhook.retry import RetryPolicy

PROGRAM = "meshhook"


@dataclass(frozen=True, slots=True)
class ProgramOptions:
    """The options given before the command."""

    embedded: bool = False
    """Whether to use the embedded PostgreSQL, even if another database is set."""
    arguments: tuple[str, ...] = ()
    """All arguments of the program, as they were given."""
    application: Application | None = None
    """The `meshhook.App` that runs as this command, by its method `run`."""


def program_options(context: typer.Context) -> ProgramOptions:
    """Return the options that were given before the command."""
    options = context.find_root().obj
    return options if isinstance(options, ProgramOptions) else ProgramOptions()


def command_app(**settings: Any) -> typer.Typer:
    """Return a typer application without commands, for the module of a command or a group."""
    # Plain help: rich takes a third of a second to load. Completion is the program's own.
    return typer.Typer(add_completion=False, rich_markup_mode=None, **settings)


def example(*commands: str) -> str:
    """Return the examples at the end of a command's help text."""
    title = "Example:" if len(commands) == 1 else "Examples:"
    return "\b\n" + "\n".join([title, *(f"  {command}" for command in commands)])


QueueArgument = Annotated[str, typer.Argument(metavar="QUEUE", help="The queue.")]
DefaultQueueArgument = Annotated[str, typer.Argument(metavar="QUEUE", help="The queue.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]

PriorityOption = Annotated[
    str | None,
    typer.Option(
        metavar="PRIORITY",
        help="urgent, high, normal or low, or 0 to 3; see: queues with priorities.",
    ),
]


RetryOption = Annotated[
    str | None,
    typer.Option(
        metavar="JSON",
        help="A retry policy of the jobs' own, such as '{\"max_attempts\": 3}'.",
    ),
]
ExpiresInOption = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="After how long a job is no longer to be started."),
]


def priority_from(text: str | None) -> Priority | None:
    """Return the priority that an option names; None for none.

    Raises:
        InvalidJobError: if it is none.
    """
    if text is None:
        return None
    return checked_priority(int(text) if text in ("0", "1", "2", "3") else text)


def retry_from(text: str | None) -> RetryPolicy | None:
    """Return the retry policy that an option gives as JSON; None for none.

    Raises:
        UsageError: if it is none.
    """
    if text is None:
        return None
    try:
        return policy_from_header(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--retry: {error}") from None
