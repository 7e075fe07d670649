"""`QueueChanges`: jobs are cancelled, rescheduled, deleted and replayed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from meshhook.job_changer import JobChanger, checked_time
from meshhook.job_changes import CHANGE_SECONDS
from meshhook.job_choice import JobChoice
from meshhook.job_replays import JobReplayer, ReplayChoice
from meshhook.jobs import PayloadT
from meshhook.postgres.database import Database
from meshhook.priorities import checked_priority
from meshhook.queues.access import QueueAccess

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime, timedelta

    from meshhook.job_changes import JobChanges
    from meshhook.job_choice import JobChoiceOptions
    from meshhook.job_replays import ReplayOptions
    from meshhook.priorities import AnyPriority


class QueueChanges(QueueAccess[PayloadT]):
    """The part of a service that changes jobs that are stored."""

    async def cancel(
        self,
        msg_ids: int | Iterable[int] | None = None,
        *,
        reason: str = "",
        requested_by: str | None = None,
        connection: Any = None,
        **choice: Unpack[JobChoiceOptions],
    ) -> JobChanges:
        """Cancel jobs: those that wait at once, those that run through their workers.

        A job that is scheduled, ready, lost or waits for a retry is removed, and the history says
        `cancelled`. For a job that runs, the request is stored: its worker reads it within about a
        second, stops the handler, and settles the job as `cancelled`. If the handler ends first,
        its outcome counts, unless that would be a retry. A job never is both cancelled and done.

        Name jobs by id, or by any of the other arguments: those that fit all of them. The queue is
        read for them, about 500,000 short messages a second; they are cancelled in chunks of 1,000,
        each committed on its own.

        Args:
            msg_ids: a job's id, or several.
            reason: for the history and the handler, up to 4,000 characters. Default: who asked.
            requested_by: who asks, up to 200 characters. Default: the database role.
            connection: an asyncpg connection, to cancel inside the caller's transaction.
            **choice: `run_id`, `workflow_id`, `project_id` and `key`, strings or UUIDs: jobs of
                this run, workflow, project or key; `state`: only jobs in this state: ready,
                scheduled, running, retrying or lost; `dry_run`: change nothing, and return what
                would be changed, default false; `search_seconds`: after how long no further part of
                the queue is searched, 0.1 to 86,400, default 300. It does not apply to ids.

        Raises:
            InvalidSettingError: naming the argument that is wrong, or if no jobs are named.
            QueueNotFoundError, DatabaseError: chunks that were cancelled before stay cancelled.
        """
        changer, dry_run = self._changer(connection, msg_ids, **choice)
        return await changer.cancel(reason=reason, requested_by=requested_by, dry_run=dry_run)

    async def reschedule(
        self,
        msg_ids: int | Iterable[int] | None = None,
        *,
        at: datetime | None = None,
        delay_seconds: float | timedelta | None = None,
        connection: Any = None,
        **choice: Unpack[JobChoiceOptions],
    ) -> JobChanges:
        """Let jobs that wait run at another time: scheduled, ready, or waiting for a retry.

        A job that runs is left alone; so is one whose lease was lost, which is claimed next.

        Args:
            msg_ids: as in `cancel`.
            at: when, a datetime with a time zone, at most 366 days ahead. In the past means now.
            delay_seconds: or after how long, 0 to 366 days from now.
            connection: an asyncpg connection, to do it inside the caller's transaction.
            **choice: the other arguments that name jobs, `dry_run` and `search_seconds`, as in
                `cancel`.

        Raises:
            InvalidSettingError: naming the argument that is wrong, or if no jobs are named.
            QueueNotFoundError, DatabaseError: chunks that were rescheduled before stay so.
        """
        moment, delay = checked_time(at, delay_seconds)
        changer, dry_run = self._changer(connection, msg_ids, **choice)
        return await changer.reschedule(moment, delay, dry_run=dry_run)

    async def run_now(
        self,
        msg_ids: int | Iterable[int] | None = None,
        *,
        connection: Any = None,
        **choice: Unpack[JobChoiceOptions],
    ) -> JobChanges:
        """Let jobs run now that are scheduled or wait for a retry.

        They are ready behind what is ready already. Arguments and errors are those of `reschedule`.
        """
        changer, dry_run = self._changer(connection, msg_ids, **choice)
        return await changer.reschedule(None, None, dry_run=dry_run)

    async def set_priority(
        self,
        msg_ids: int | Iterable[int] | None = None,
        *,
        priority: AnyPriority,
        connection: Any = None,
        **choice: Unpack[JobChoiceOptions],
    ) -> JobChanges:
        """Change the priority of jobs that wait: ready, scheduled, or waiting for a retry.

        Of a job that is a dead letter and is named by its id, too: it keeps the priority when it is
        replayed. In a queue with priorities, a job that is ready counts as waiting from now on. A
        job that runs is left alone; so is one whose lease was lost, and one that has the priority
        already.

        Args:
            msg_ids: as in `cancel`.
            priority: `urgent`, `high`, `normal` or `low`, or 0 to 3.
            connection: an asyncpg connection, to do it inside the caller's transaction.
            **choice: the other arguments that name jobs, `dry_run` and `search_seconds`, as in
                `cancel`. With `dry_run`, those that have the priority already are counted, too.

        Raises:
            InvalidJobError: if that is no priority.
            InvalidSettingError: naming the argument that is wrong, or if no jobs are named.
            QueueNotFoundError, DatabaseError: chunks that were changed before stay so.
        """
        wanted = checked_priority(priority)
        changer, dry_run = self._changer(connection, msg_ids, **choice)
        return await changer.set_priority(wanted, dry_run=dry_run)

    async def delete_jobs(
        self,
        msg_ids: int | Iterable[int] | None = None,
        *,
        connection: Any = None,
        **choice: Unpack[JobChoiceOptions],
    ) -> JobChanges:
        """Delete jobs that do not run with everything about them, as if they had never been.

        That is the message, or the dead letter it became, and its history. To keep the history,
        cancel the job. By id it deletes jobs that have ended, too; by the other arguments only
        those that are in the queue. Of what another transaction has locked, a message counts as
        running, and a dead letter is left alone. Only the owner of the schema may do it.

        Arguments and errors are those of `reschedule`.
        """
        changer, dry_run = self._changer(connection, msg_ids, **choice)
        return await changer.delete(dry_run=dry_run)

    async def replay_jobs(
        self,
        msg_ids: int | Iterable[int] | None = None,
        *,
        connection: Any = None,
        **options: Unpack[ReplayOptions],
    ) -> JobChanges:
        """Enqueue jobs again that have ended and whose bodies the queue keeps.

        The queue's setting `keep_bodies_days` keeps them. A new job has the same body and headers,
        and all its attempts; it is in no group and has no unique key. Dead letters are replayed by
        `DLQService`.

        A job is replayed once: another call leaves it as it is and tells the msg_id of its replay,
        unless `again` is true. So a call whose outcome is uncertain can be repeated.

        Name jobs by id, or by any of the other arguments up to `until`: those that fit all of them,
        which are searched for in the history. Jobs are replayed in chunks of 1,000, each committed
        on its own. In the result, `not_kept` counts those whose bodies were not kept.

        Args:
            msg_ids: a job's id, or several.
            connection: an asyncpg connection, to do it inside the caller's transaction.
            **options: `run_id`, `workflow_id`, `project_id` and `key`, as in `cancel`; with a key,
                those whose bodies were not kept are not counted. `state`: how they ended, succeeded
                or cancelled, default, unless ids are given: succeeded. `since` and `until`: only
                jobs that ended at this time or later, and before this time, datetimes with a time
                zone. `delay_seconds`: how long until they are ready, 0 to 366 days, default 0.
                `again`: whether to replay also those that were replayed before, default false.
                `dry_run`, as in `cancel`. `search_seconds`: after how long no further part of the
                history is searched, 0.1 to 86,400, default 300. It does not apply to ids or a run.

        Raises:
            InvalidSettingError: naming the argument that is wrong, or if no jobs are named.
            QueueNotFoundError, DatabaseError: chunks that were replayed before stay replayed.
        """
        return await self._replay(connection, msg_ids, **options)

    async def _replay(
        self,
        connection: Any,
        msg_ids: int | Iterable[int] | None,
        *,
        delay_seconds: float | timedelta = 0,
        again: bool = False,
        dry_run: bool = False,
        search_seconds: float = CHANGE_SECONDS,
        **named: Any,
    ) -> JobChanges:
        choice = ReplayChoice.of(msg_ids, **named)
        database = self._database if connection is None else Database.of(connection)
        replayer = JobReplayer(database, self.queue, choice, search_seconds)
        return await replayer.replay(delay_seconds=delay_seconds, again=again, dry_run=dry_run)

    def _changer(
        self,
        connection: Any,
        msg_ids: int | Iterable[int] | None,
        *,
        dry_run: bool = False,
        search_seconds: float = CHANGE_SECONDS,
        **named: Any,
    ) -> tuple[JobChanger, bool]:
        """Return what changes the jobs that are named, and whether it is only tried."""
        choice = JobChoice.of(msg_ids, **named)
        database = self._database if connection is None else Database.of(connection)
        return JobChanger(database, self.queue, choice, search_seconds), dry_run
