"""The real database as the protocol's model sees it: one statement of the library after another."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import asyncpg

from meshhook.administration import set_queue_config
from meshhook.jobs import Job, WorkflowJob
from meshhook.names import KEY_HEADER
from meshhook.outcomes import AttemptOutcome
from meshhook.queue_config import KeyPlace
from meshhook.store import queries
from meshhook.store.bodies import encode_body
from meshhook.store.body_decoder import BodyDecoder
from meshhook.store.claims import claim
from meshhook.store.sending import insert_messages
from meshhook.store.settlements import Settlement, find_settled, settle
from support.protocol_model import Entry, Found, Key, Lease, ProtocolViolation, Row

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

QUEUE = "jobs"
MAX_ATTEMPTS = 3
LEASE_SECONDS = 600.0
LOCK_TIMEOUT_SECONDS = 2
"""How long a statement may wait for the message that a handler is completing: none should."""

_TABLES = queries.QueueTables(QUEUE)
_COPIED = ("pgmq.q_jobs", "pgmq.q_jobs_dlq", "pgmq.a_jobs", "meshhook.job_attempts")
_HISTORY = "meshhook.job_attempts"
_COUNTED = ("pgmq.q_jobs", "pgmq.q_jobs_dlq")
_KEY_SQL = "msg_id, date_part('epoch', enqueued_at)"

_MESSAGES_SQL = (
    f"select '{{}}', {_KEY_SQL}, message ->> 'run_id', null::text, null::text, null::int "
    "from pgmq.{}"
)
_FIND_SQL = " union all ".join(
    [
        _MESSAGES_SQL.format("live", f"q_{QUEUE}"),
        _MESSAGES_SQL.format("dead", f"q_{QUEUE}_dlq"),
        _MESSAGES_SQL.format("archived", f"a_{QUEUE}"),
        f"select 'attempt', {_KEY_SQL}, run_id, outcome, worker, attempt from {_HISTORY}",
    ]
)


class Store:
    """A queue of a real database. Made once; `clear` makes it as new."""

    def __init__(self, url: str, *, keyed: bool = False) -> None:
        self._keys = KeyPlace() if keyed else None
        self._loop = asyncio.new_event_loop()
        self._connection: Any = self._run(
            asyncpg.connect(url, server_settings={"lock_timeout": f"{LOCK_TIMEOUT_SECONDS}s"})
        )
        self._own_connection: Any = self._run(asyncpg.connect(url))
        """Of a handler that completes its job in a transaction of its own."""
        self._own_transaction: Any = None
        self._decoder: BodyDecoder[Any] = BodyDecoder(None)
        self._has_copy = False
        self._execute(f"select meshhook.create_queue('{QUEUE}')")
        self._make_keyed()

    def close(self) -> None:
        """Disconnect."""
        self._run(self._connection.close())
        self._run(self._own_connection.close())
        self._loop.close()

    def clear(self) -> None:
        """Empty the queue and its history; ids begin at 1 again."""
        self.end_completion(commit=False)
        self._execute(
            "; ".join(
                [f"delete from {table}" for table in _COPIED]
                + [f"select setval({_sequence(table)}, 1, false)" for table in _COUNTED]
            )
        )
        self._forget_copy()

    def enqueue(self, run_ids: Sequence[str]) -> list[Key]:
        """Enqueue a job for each run."""
        jobs = [WorkflowJob(run_id=each, workflow_id="w", project_id="p") for each in run_ids]
        messages = [(encode_body(job, 10_000), self._headers(job.run_id), 0.0) for job in jobs]
        ids = self._run(insert_messages(self._connection, QUEUE, messages))
        return [self._key(f"pgmq.q_{QUEUE}", msg_id) for msg_id in ids]

    def claim(self, limit: int) -> list[Job[Any]]:
        """Claim jobs as a worker does."""
        claimed = self._run(
            claim(
                self._connection,
                _TABLES,
                lease_seconds=LEASE_SECONDS,
                limit=limit,
                max_attempts=MAX_ATTEMPTS,
                keys=self._keys,
            )
        )
        jobs: list[Job[Any]] = claimed.jobs
        for job in jobs:
            self._decoder.decode(job)
        return jobs

    def settle(self, worker: str, settlements: Sequence[Settlement]) -> set[int]:
        """Record outcomes, and return the positions of those whose lease held."""
        positions: set[int] = self._run(settle(self._connection, _TABLES, worker, settlements))
        return positions

    def find_settled(
        self, worker: str, settlements: Sequence[Settlement]
    ) -> dict[int, AttemptOutcome]:
        """Return what the worker has recorded already, by position."""
        found: dict[int, AttemptOutcome] = self._run(
            find_settled(self._connection, QUEUE, worker, settlements)
        )
        return found

    def extend(self, jobs: Sequence[Job[Any]]) -> list[bool]:
        """Extend leases, and say which held."""
        rows = self._fetch(queries.load("extend", _TABLES), *_leases(jobs), LEASE_SECONDS, False)
        held = {row["position"] - 1 for row in rows}
        return [position in held for position in range(len(jobs))]

    def release(self, job: Job[Any]) -> bool:
        """Give a lease back, and say whether it held."""
        return bool(self._fetch(queries.load("release", _TABLES), *_leases([job]), 0.0))

    def begin_completion(self, worker: str, settlement: Settlement) -> bool:
        """Settle in a transaction that stays open, and say whether the lease held."""
        self._own_transaction = self._own_connection.transaction()
        self._run(self._own_transaction.start())
        return bool(self._run(settle(self._own_connection, _TABLES, worker, [settlement])))

    def end_completion(self, *, commit: bool) -> None:
        """End that transaction, if there is one."""
        transaction, self._own_transaction = self._own_transaction, None
        if transaction is not None:
            self._run(transaction.commit() if commit else transaction.rollback())

    def replay(self, dead_letter_ids: Sequence[int]) -> list[tuple[int, Key]]:
        """Replay dead letters, and return which, and the key of each one's new message."""
        rows = self._fetch(
            queries.load("replay_dead_letters", QUEUE, target=QUEUE),
            dead_letter_ids,
            QUEUE,
            True,
            None,
        )
        return [(row[0], self._key(f"pgmq.q_{QUEUE}", row[1])) for row in rows]

    def read(self, limit: int) -> list[Lease]:
        """Read messages as another client of PGMQ does."""
        rows = self._fetch(f"select {_KEY_SQL}, read_ct from pgmq.read('{QUEUE}', 600, {limit})")
        return [Lease((row[0], row[1]), row[2]) for row in rows]

    def archive(self, msg_id: int) -> None:
        """Archive a message as another client of PGMQ does."""
        self._fetch(f"select pgmq.archive('{QUEUE}', {msg_id}::bigint)")

    def delete(self, msg_id: int) -> None:
        """Delete a message as another client of PGMQ does."""
        self._fetch(f"select pgmq.delete('{QUEUE}', {msg_id}::bigint)")

    def expire(self, msg_id: int) -> None:
        """Let a lease or a delay be over.

        For so long that it comes before all that was never late, however slow the machine is: a
        history that is tried again has to be the same.
        """
        self._fetch(
            f"update pgmq.q_{QUEUE} set vt = clock_timestamp() - interval '1 hour' "
            "where msg_id = $1",
            msg_id,
        )

    def drop_and_create(self) -> None:
        """Drop the queue and make it anew: ids begin at 1 again."""
        self._execute(
            f"select meshhook.drop_queue('{QUEUE}'); select meshhook.create_queue('{QUEUE}')"
        )
        self._make_keyed()

    def copy(self) -> None:
        """Keep a copy of the queue and its history as they are now, and of the last ids."""
        self._forget_copy()
        for number, table in enumerate(_COPIED):
            self._execute(f"create table public.copy_{number} as table {table}")
        self._execute(
            "create table public.copy_ids as select "
            + ", ".join(
                f"pg_sequence_last_value({_sequence(table)}) as id_{number}"
                for number, table in enumerate(_COUNTED)
            )
        )
        self._has_copy = True

    def restore(self) -> None:
        """Go back to the copy, as a replica that lacks the latest changes does when promoted."""
        statements = []
        for number, table in enumerate(_COPIED):
            statements += [
                f"delete from {table}",
                f"insert into {table} overriding system value select * from public.copy_{number}",
            ]
        statements += [
            f"select setval({_sequence(table)}, coalesce(id_{number}, 1), "
            f"id_{number} is not null) from public.copy_ids"
            for number, table in enumerate(_COUNTED)
        ]
        self._execute("; ".join(statements))

    def find(self) -> Found:
        """Return what stands in the tables."""
        found = Found(live={}, dead={}, archived=Counter(), history=[])
        for kind, msg_id, enqueued, run_id, outcome, worker, attempt in self._fetch(_FIND_SQL):
            if kind == "live":
                found.live[msg_id, enqueued] = run_id
            elif kind == "dead":
                found.dead[msg_id] = run_id
            elif kind == "archived":
                found.archived[run_id] += 1
            else:
                entry = Entry((msg_id, enqueued), run_id, AttemptOutcome(outcome), worker)
                found.history.append(Row(entry, attempt))
        return found

    def _make_keyed(self) -> None:
        if self._keys is not None:
            self._run(set_queue_config(self._connection, QUEUE, keyed=True))

    def _headers(self, run_id: str) -> str | None:
        """Return the headers of a run's message: of three runs two have a key, each its own."""
        number = int(run_id.rpartition("-")[2])
        return f'{{"{KEY_HEADER}": "key-{number % 3}"}}' if self._keys and number % 3 else None

    def _key(self, table: str, msg_id: int) -> Key:
        (row,) = self._fetch(f"select {_KEY_SQL} from {table} where msg_id = $1", msg_id)
        return row[0], row[1]

    def _forget_copy(self) -> None:
        if self._has_copy:
            tables = [f"public.copy_{number}" for number in range(len(_COPIED))]
            self._execute("drop table if exists " + ", ".join([*tables, "public.copy_ids"]))
        self._has_copy = False

    def _fetch(self, sql: str, *arguments: object) -> Any:
        return self._run(self._connection.fetch(sql, *arguments))

    def _execute(self, sql: str) -> None:
        self._run(self._connection.execute(sql))

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            return self._loop.run_until_complete(work)
        except asyncpg.LockNotAvailableError as error:
            raise ProtocolViolation(f"a statement waits for a lock: {error}") from error


def _sequence(table: str) -> str:
    """Return an expression for the sequence that a table takes its ids from."""
    return f"pg_get_serial_sequence('{table}', 'msg_id')"


def _leases(jobs: Sequence[Job[Any]]) -> tuple[list[int], list[int], list[float]]:
    """Return leases as the parameters of a statement."""
    return (
        [job.msg_id for job in jobs],
        [job.read_ct for job in jobs],
        [job.enqueued_timestamp for job in jobs],
    )
