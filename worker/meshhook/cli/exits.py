"""Exit codes: one place says which error ends a command with which number."""

from __future__ import annotations

import sys
from enum import IntEnum

from meshhook import errors


class ExitCode(IntEnum):
    """What a command ends with."""

    OK = 0
    """It did what was asked."""
    FAILED = 1
    """The operation failed."""
    BAD_INPUT = 2
    """An argument, a payload or a setting is wrong."""
    NOT_FOUND = 3
    """There is no such queue, job or dead letter."""
    DATABASE = 4
    """The database is unreachable, read-only, or not migrated."""


EXIT_CODES_HELP = (
    "Exit codes: 0 done; 1 failed; 2 bad input; 3 no such queue, job or dead letter; "
    "4 the database is unreachable, read-only or not migrated."
)

_CODES: tuple[tuple[type[errors.MeshHookError], ExitCode], ...] = (
    (errors.DatabaseUnavailableError, ExitCode.DATABASE),
    (errors.DatabaseReadOnlyError, ExitCode.DATABASE),
    (errors.SchemaMissingError, ExitCode.DATABASE),
    (errors.UnsupportedPgmqError, ExitCode.DATABASE),
    (errors.QueueNotFoundError, ExitCode.NOT_FOUND),
    (errors.JobNotFoundError, ExitCode.NOT_FOUND),
    (errors.DeadLetterNotFoundError, ExitCode.NOT_FOUND),
    (errors.InvalidQueueNameError, ExitCode.BAD_INPUT),
    (errors.InvalidJobError, ExitCode.BAD_INPUT),
    (errors.InvalidPayloadError, ExitCode.BAD_INPUT),
    (errors.InvalidSettingError, ExitCode.BAD_INPUT),
    (errors.InvalidHandlerError, ExitCode.BAD_INPUT),
)


def exit_code_of(error: errors.MeshHookError) -> ExitCode:
    """Return the exit code for an error."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return ExitCode.FAILED


def report(error: errors.MeshHookError) -> ExitCode:
    """Print an error for a person, and return the exit code for it."""
    sys.stderr.write(f"error: {error}\n")
    for note in getattr(error, "__notes__", ()):
        sys.stderr.write(f"  {note}\n")
    return exit_code_of(error)
