"""Firing schedules: enqueues the jobs of due times, in every worker, without a leader."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from meshhook.due_times import Firing, Timetable, most_at_once, plan
from meshhook.errors import (
    DatabaseConflictError,
    DatabaseError,
    DatabaseLockedError,
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    InvalidSettingError,
    UncertainCommitError,
)
from meshhook.observability.loggers import get_logger
from meshhook.postgres.text_encodings import fitted_text
from meshhook.store import queries

if TYPE_CHECKING:
    import asyncpg

    from meshhook.worker.connections import WorkerConnection

_log = get_logger("meshhook.worker.scheduler")

LOOK_SECONDS = 10.0
"""How long until a worker looks again while no schedule is due."""
LEAST_SECONDS = 1.0
"""How long it waits at least."""
RETRY_SECONDS = 60.0
"""How long a schedule that could not be fired is left alone."""
LOCKED_SECONDS = 5.0
"""How long one is left alone whose lock was not granted: claims waited for it, too."""
FIRE_SECONDS = 10.0
"""How long firing one schedule may take: claims wait for it."""
MAX_DUE = 20
"""How many schedules are fired until the next look, which is made at once if there may be more."""
MOST_DUE = 640
"""Up to how many are tried if all before them are in the hands of others."""
# No schedule can be fired now.
_NO_DATABASE = (DatabaseUnavailableError, DatabaseReadOnlyError)
# The table of its queue is in use, for example.
_IN_THE_WAY = (DatabaseLockedError, DatabaseConflictError)


class _TooSlowError(Exception):
    """Firing a schedule took too long to wait for it."""


class Scheduler:
    """Looks for schedules that are due, and fires them.

    It looks every ten seconds, and when the next one is due. All workers do so, each a little later
    than due: the first one to lock a schedule fires it in one statement, and the others see that it
    is no longer due. What is wrong with one schedule is noted there and stops no other.
    """

    def __init__(self, *, connection: WorkerConnection) -> None:
        """Take the connection."""
        self._connection = connection
        self._tried = MAX_DUE

    async def run(self) -> None:
        """Look until cancelled."""
        wait_seconds = 0.0
        while True:
            spread = random.uniform(0.0, 0.25)  # noqa: S311 - spreads load, keeps no secret
            await asyncio.sleep(wait_seconds + spread)
            while not (wait_seconds := await self.look()):
                pass

    async def look(self) -> float:
        """Fire the schedules that are due, and return in how many seconds to look again."""
        try:
            rows = await self._connection.fetch(queries.load("due_schedules"), self._tried)
            moved = [await self._fire(row) for row in rows if row["name"] is not None]
        except _TooSlowError:
            return LEAST_SECONDS  # claims come first; then the others are fired
        except DatabaseError as error:
            _log.warning("schedules not looked at", error=str(error))
            return LOOK_SECONDS
        except Exception as error:  # noqa: BLE001 - whatever it is, the jobs of the queues go on
            _log.error("schedules not looked at", exc_info=error)
            return LOOK_SECONDS
        if len(moved) >= self._tried and any(moved):
            return 0.0
        # Those that an open transaction has locked must not hide the others.
        is_blocked = len(moved) >= self._tried
        self._tried = min(self._tried * 2, MOST_DUE) if is_blocked else MAX_DUE
        wait_seconds = rows[0]["wait_seconds"]
        if wait_seconds is None:
            return LOOK_SECONDS
        return min(max(float(wait_seconds), LEAST_SECONDS), LOOK_SECONDS)

    async def _fire(self, row: asyncpg.Record) -> bool:
        """Fire a schedule, and return whether it was here that it moved on.

        Raises:
            _TooSlowError: if it took too long.
            DatabaseError: the database is away.
        """
        fields = {"queue": row["queue"], "schedule": row["name"]}
        try:
            firing = _firing_of(row)
            rows = await self._connection.fetch(
                queries.load("fire_schedule"),
                row["queue"],
                row["name"],
                row["next_at"],
                list(firing.due),
                "enqueued" if firing.is_sent else "missed",
                firing.missed,
                firing.following,
                timeout_seconds=FIRE_SECONDS,
            )
        except UncertainCommitError as error:
            if not isinstance(error.__cause__, TimeoutError):
                raise  # the database is away, or was
            # Whatever slows it down must keep no other schedule, and no claim, waiting for ever.
            # The server may go on with it: then the row is locked, and others pass over it.
            slow = DatabaseError(
                f"it takes longer than {FIRE_SECONDS:.0f} s to fire: look for what slows inserts "
                f"into pgmq.q_{row['queue']} down, such as a trigger"
            )
            _log.warning("schedule not fired", error=str(slow), **fields)
            await self._note_failure(row, slow)
            raise _TooSlowError from error
        except _NO_DATABASE:
            raise
        except (DatabaseError, InvalidSettingError) as error:
            _log.warning("schedule not fired", error=str(error), **fields)
            return await self._note_failure(row, error)
        else:
            sent = rows[0][0]
            if sent is not None and firing.missed:
                _log.warning("due times missed", missed=firing.missed, sent=sent, **fields)
            return sent is not None

    async def _note_failure(self, row: asyncpg.Record, error: Exception) -> bool:
        """Note why a schedule was not fired, and return whether that is noted."""
        try:
            await self._connection.fetch(
                queries.load("fail_schedule"),
                row["queue"],
                row["name"],
                row["next_at"],
                fitted_text(_reason(error), self._connection.server_encoding),
                LOCKED_SECONDS if isinstance(error, _IN_THE_WAY) else RETRY_SECONDS,
            )
        except _NO_DATABASE:
            raise
        except DatabaseError as failure:
            _log.warning(
                "failure of a schedule not noted",
                queue=row["queue"],
                schedule=row["name"],
                error=str(failure),
            )
            return False
        return True


def _firing_of(row: asyncpg.Record) -> Firing:
    """Return what to do about a row of `sql/due_schedules.sql`.

    Raises:
        InvalidSettingError: naming what is wrong with it.
    """
    try:
        table = Timetable.of(row["cron"], row["every_seconds"], row["time_zone"])
        return plan(
            table,
            next_at=row["next_at"],
            now=row["read_at"],
            missed=row["missed"],
            since=row["try_at"],
            most=most_at_once(row["message_bytes"]),
        )
    except InvalidSettingError:
        raise
    except Exception as error:
        raise InvalidSettingError(
            f"its due times cannot be worked out: {type(error).__name__}: {error}"
        ) from error


def _reason(error: Exception) -> str:
    # The server's own words, without ours around them.
    return str(error.__cause__ if isinstance(error, DatabaseError) and error.__cause__ else error)
