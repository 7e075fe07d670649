"""What the caller learns from a failed command: an exit code, and one or two lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from meshhook import errors
from meshhook.escaping import shown_sentence
from meshhook.observability.redaction import hide_in_text

_URL_SHAPE = "postgresql://user:password@host:5432/name"
_MAX_MESSAGE_CHARACTERS = 2_000
_SHOWN_IDS = 10


class ExitCode(IntEnum):
    """How a command ended. The help text explains the codes."""

    OK = 0
    FAILED = 1
    BAD_INPUT = 2
    NOT_FOUND = 3
    NO_DATABASE = 4
    INTERRUPTED = 130
    PIPE_CLOSED = 141


EXIT_CODES_HELP = """\
\b
Exit codes:
  0  success
  1  failure: the database refused it, or a confirmation was declined
  2  wrong usage or bad input; nothing was changed unless the message says so
  3  not found: no such queue, job or dead letter
  4  no usable database: unreachable, read-only, or without the schema
  130  interrupted; 141 whatever read the output closed it
"""


class UsageError(errors.MeshHookError):
    """Arguments that do not go together, or one that is missing."""


class DatabaseNotSetError(errors.InvalidSettingError):
    """No database was given."""

    def __init__(self) -> None:
        """Say how to give one, and why not on the command line."""
        super().__init__(
            f"no database is set: export MESHHOOK_DATABASE_URL={_URL_SHAPE} "
            "(not as an option, which any user of the machine could read)\n"
            "or use a PostgreSQL of your own in .meshhook/: meshhook --embedded COMMAND, "
            "or export MESHHOOK_EMBEDDED=1"
        )


class InvalidDatabaseUrlError(errors.InvalidSettingError):
    """A database URL that cannot be used. It contains a password, so no part of it is shown."""

    def __init__(self, reason: str) -> None:
        """Take the reason, which contains no part of it either."""
        super().__init__(f"MESHHOOK_DATABASE_URL: {reason}")


class DatabaseNotOpenedError(errors.DatabaseUnavailableError):
    """The database that was given cannot be used at all."""

    def __init__(self, place: str, reason: str, way_out: str) -> None:
        """Take where the database should be, what is wrong, and what to do about it."""
        super().__init__(f"{place}: {reason}\n{way_out}")


class DeadLettersNotFoundError(errors.MeshHookError, LookupError):
    """Several dead letters that do not exist."""

    def __init__(self, queue_name: str, ids: Sequence[int]) -> None:
        """Name the queue and the dead letters."""
        shown = ", ".join(str(each) for each in ids[:_SHOWN_IDS])
        more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
        super().__init__(
            f"queue {queue_name!r} has no dead letters {shown}{more}; they may have been replayed "
            f"or deleted in the meantime: meshhook dlq list {queue_name}"
        )


class JobsNotFoundError(errors.MeshHookError, LookupError):
    """Jobs of which nothing is known."""

    def __init__(self, queue_name: str, ids: Sequence[int], count: int) -> None:
        """Name the queue and the jobs: some of them, and how many there are."""
        shown = ", ".join(str(each) for each in ids[:_SHOWN_IDS])
        more = f" and {count - _SHOWN_IDS} more" if count > _SHOWN_IDS else ""
        super().__init__(
            f"queue {queue_name!r} knows no job {shown}{more}: it was never there, somebody "
            "deleted it, or its history is older than history_retention_days: "
            f"meshhook queue show {queue_name}"
        )


class JobsUnchangedError(errors.MeshHookError):
    """Jobs that were named and cannot be changed as asked."""

    def __init__(self, queue_name: str, count: int) -> None:
        """Take the queue, and how many jobs."""
        jobs = "job was" if count == 1 else "jobs were"
        super().__init__(
            f"{count} {jobs} left alone; to see one: meshhook jobs show {queue_name} ID"
        )


class SearchIncompleteError(errors.MeshHookError):
    """A search that ran out of time before it had read everything."""

    def __init__(
        self,
        found: int,
        seen: int,
        seconds: float,
        *,
        queue: str | None,
        ids: Sequence[str],
        unread_below: int | None = None,
    ) -> None:
        """Take how many jobs were found, among how many rows, in what time.

        Args:
            found: how many jobs.
            seen: among how many messages and attempts.
            seconds: in what time.
            queue: the queue; None if all were searched.
            ids: by which of `run_id`, `workflow_id` and `project_id`.
            unread_below: below which id it has read nothing, if it can go on there.
        """
        what = f"only {found:,} such jobs were found" if found else "no such job was found"
        super().__init__(
            f"{what} among the newest {seen:,} messages and attempts before time ran out "
            f"({seconds:g} s)\n"
            f"search longer: --search-seconds {seconds * 10:g}"
            + ("; or one queue: --queue NAME" if queue is None else "")
            + (f"; or go on: --before {unread_below}" if unread_below is not None else "")
            + (
                f"\njobs in their queue are found at once where its setting lookup_by names "
                f"{' or '.join(ids)}: meshhook queue show {queue or 'NAME'}"
                if ids
                else ""
            )
        )


class LostJobsError(errors.MeshHookError):
    """A demo that lost jobs."""

    def __init__(self, lost: int) -> None:
        """Take how many."""
        super().__init__(f"{lost} jobs were lost, which must never happen: please report it")


class RolesDifferError(errors.MeshHookError):
    """Roles with fewer or more rights than their kind."""

    def __init__(self, differing: int, checked: int) -> None:
        """Take how many differ, among how many."""
        does = "do" if differing > 1 else "does"
        super().__init__(
            f"{differing} of {checked} roles {does} not have exactly the rights of the kind\n"
            "to reset the rights of a role: meshhook roles grant KIND --name ROLE\n"
            "only an administrator can revoke memberships and superuser rights"
        )


class FindingsError(errors.MeshHookError):
    """The doctor found what must not stay so."""

    def __init__(self, critical: int, warnings: int) -> None:
        """Take how many findings are critical, and how many of the others count."""
        found = [
            f"{count} {severity} finding{'s' * (count > 1)}"
            for count, severity in ((critical, "critical"), (warnings, "warning"))
            if count
        ]
        super().__init__(f"{' and '.join(found)}; what is printed names the way out of each")


class ServerEndedError(errors.MeshHookError):
    """The embedded server ended without being asked to."""

    def __init__(self, code: int) -> None:
        """Take the exit code of the server, negative for a signal."""
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        super().__init__(f"PostgreSQL {how}; its messages above say why")


class PartlyDoneError(errors.MeshHookError):
    """A command that did part of its work: the message says which part, the cause why no more."""

    def __init__(self, message: str, cause: BaseException) -> None:
        """Take the whole message and what stopped the command."""
        super().__init__(message)
        self.cause = cause


_CODES: tuple[tuple[type[BaseException], ExitCode], ...] = (
    # The first match counts, so a class comes before those that it derives from.
    (errors.UncertainCommitError, ExitCode.FAILED),
    (errors.DatabaseUnavailableError, ExitCode.NO_DATABASE),
    (errors.DatabaseReadOnlyError, ExitCode.NO_DATABASE),
    (errors.SchemaMissingError, ExitCode.NO_DATABASE),
    (errors.UnsupportedPgmqError, ExitCode.NO_DATABASE),
    (errors.QueueNotFoundError, ExitCode.NOT_FOUND),
    (errors.JobNotFoundError, ExitCode.NOT_FOUND),
    (errors.DeadLetterNotFoundError, ExitCode.NOT_FOUND),
    (errors.GroupNotFoundError, ExitCode.NOT_FOUND),
    (errors.ScheduleNotFoundError, ExitCode.NOT_FOUND),
    (DeadLettersNotFoundError, ExitCode.NOT_FOUND),
    (JobsNotFoundError, ExitCode.NOT_FOUND),
    (errors.InvalidQueueNameError, ExitCode.BAD_INPUT),
    (errors.InvalidJobError, ExitCode.BAD_INPUT),
    (errors.InvalidSettingError, ExitCode.BAD_INPUT),
    (errors.InvalidHandlerError, ExitCode.BAD_INPUT),
    (UsageError, ExitCode.BAD_INPUT),
    (KeyboardInterrupt, ExitCode.INTERRUPTED),
)


def exit_code(error: BaseException) -> ExitCode:
    """Return the exit code for an error that ends a command."""
    if isinstance(error, PartlyDoneError):
        code = exit_code(error.cause)
        # Code 4 promises that nothing was done.
        return ExitCode.FAILED if code is ExitCode.NO_DATABASE else code
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.FAILED)


def describe(error: BaseException) -> str:
    """Return the message for an error: `error: ...`, without control characters."""
    if isinstance(error, KeyboardInterrupt):
        return "error: interrupted"
    text = str(error) or type(error).__name__
    if not isinstance(error, errors.MeshHookError):
        text = (
            f"unexpected {type(error).__name__}: {text}\n"
            "this is a bug; to see the whole traceback: export MESHHOOK_LOG_LEVEL=debug"
        )
    return "error: " + shown_sentence(hide_in_text(text), limit=_MAX_MESSAGE_CHARACTERS)
