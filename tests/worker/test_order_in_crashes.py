"""The order of keys while workers are killed, stopped and disconnected."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import AsyncExitStack
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, Self, TypeAlias

import asyncpg
import pytest

from meshhook import DLQService, QueueService, set_queue_config
from meshhook.names import KEY_HEADER
from support.faulty_fleet import faulty_fleet
from support.waiting import eventually
from support.workers import ledger_lines

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

pytestmark = [pytest.mark.chaos, pytest.mark.usefixtures("queue_name")]

LEASE_SECONDS = 1
FAULTS = 10
KEYS = tuple(f"key-{number}" for number in range(12))
SECONDS = (*[0.02] * 40, 1.2 * LEASE_SECONDS)
FEW = 60
PAUSE_SECONDS = 0.05
ENDS = ("", "", "", "retried", "snoozed", "dead_lettered")
# A row is written by the transaction of the change, and gone if that is rolled back. Changes of one
# message are in their order, and so are claims and extensions: they take turns.
LEDGER = """
    create table ledger (
        number bigserial, what text, msg_id bigint, key text, place bigint,
        at timestamptz default clock_timestamp(), begun_at timestamptz default now(),
        lease_until timestamptz);
    create function note_change() returns trigger language plpgsql as $$
    declare
        job record := case when tg_op = 'DELETE' then old else new end;
        what text := case tg_op when 'INSERT' then 'came' when 'DELETE' then 'gone' end;
    begin
        if tg_op = 'UPDATE' then
            what := case when new.vt < clock_timestamp()
                    or not meshhook.has_open_attempt(new.read_ct, new.headers) then 'let go'
                when new.read_ct = old.read_ct then 'extended' else 'leased' end;
        end if;
        insert into public.ledger (what, msg_id, key, place, lease_until)
        values (what, job.msg_id, job.headers ->> 'x-pgmq-group', coalesce(
            (job.headers #>> '{meshhook-replayed-from,place}')::bigint, job.msg_id), job.vt);
        return null;
    end $$;
    create trigger note_change after insert or update or delete on pgmq.q_jobs
        for each row execute function note_change();
"""
SEEN = "insert into ledger (what) values ('seen')"


class Producer:
    """Enqueues by every way in, and replays what has died."""

    def __init__(self, url: str, connection: Connection) -> None:
        self._connection = connection
        self._service = QueueService[Any](url, "jobs")
        self._dead_letters = DLQService(url, "jobs")
        self._chances = random.Random(5)
        self._numbers = count()
        self.sent: list[str] = []

    async def run(self, end: asyncio.Event) -> None:
        """Keep some jobs of each key waiting, until that is set."""
        while not end.is_set():
            if await self._connection.fetchval("select count(*) from pgmq.q_jobs") < FEW:
                await self.enqueue()
            await asyncio.sleep(PAUSE_SECONDS)

    async def enqueue(self) -> None:
        """Enqueue jobs of each key; of some of them the smaller ids are committed last."""
        for key in KEYS:
            async with self._connection.transaction():
                await self._connection.execute(
                    "select meshhook.enqueue_many('jobs', $1::jsonb[], key => $2)",
                    *([json.dumps(self._body()) for _ in range(2)], key),
                )
                await self._service.enqueue(self._body(), key=key)
                await self._service.enqueue_many([self._body(), self._body()], key=key)
            await self._connection.execute(
                "select pgmq.send('jobs', $1::jsonb, $2::jsonb)",
                *(json.dumps(self._body()), json.dumps({KEY_HEADER: key})),
            )
        await self.replay()

    async def replay(self) -> None:
        """Replay dead letters, and note that from here on each claim sees all that has come."""
        await self._dead_letters.replay_multiple_jobs(limit=5)
        await self._connection.execute(SEEN)

    async def is_done(self) -> bool:
        """Say whether all jobs are gone; what has died is replayed."""
        await self.replay()
        left = "select (select count(*) from pgmq.q_jobs) + (select count(*) from pgmq.q_jobs_dlq)"
        return not await self._connection.fetchval(left)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._service.close()
        await self._dead_letters.close()

    def _body(self) -> dict[str, Any]:
        name = f"job-{next(self._numbers)}"
        self.sent.append(name)
        seconds, end = self._chances.choice(SECONDS), self._chances.choice(ENDS)
        return {"payload": {"name": name, "seconds": seconds, "end": end}}


def breaches(ledger: Iterable[asyncpg.Record]) -> list[str]:
    """Return where a ledger has a lease beside another one, or before an earlier job of its key."""
    there: dict[str, dict[int, tuple[int, int]]] = defaultdict(dict)
    leases: dict[int, datetime] = {}
    new: set[int] = set()
    seen_at: dict[int, datetime] = {}
    found = []
    for row in ledger:
        what, msg_id, key = row["what"], row["msg_id"], row["key"]
        if what == "came":
            there[key][msg_id] = (row["place"], msg_id)
            new.add(msg_id)
        elif what == "seen":
            seen_at |= dict.fromkeys(new, row["at"])
            new.clear()
        elif what == "gone":
            del there[key][msg_id]
            leases.pop(msg_id, None)
        elif what == "let go":
            leases.pop(msg_id, None)
        else:
            others = there[key].items() - {(msg_id, there[key][msg_id])}
            found += [
                f"{msg_id} of {key} is {what} beside {other}"
                for other, _ in others
                if other in leases and leases[other] > row["at"]
            ]
            found += [
                f"{msg_id} of {key} is {what} before {other}"
                for other, place in others
                if what == "leased"
                and place < there[key][msg_id]
                and other in seen_at
                and seen_at[other] < row["begun_at"]
            ]
            leases[msg_id] = row["lease_until"]
    return found


@pytest.mark.timeout(300)
async def test_order_holds_whatever_dies_when(
    connection: Connection, database_url: str, tmp_path: Path
) -> None:
    """Each lease is that of the first job of its key, no other of it is live, and all jobs end.

    Eight processes are killed, stopped for longer than their leases, and cut off from the database;
    those that were stopped then settle late, and extend what they have lost. Meanwhile jobs come by
    every way in, are retried and snoozed, and die and are replayed.
    """
    await set_queue_config(
        connection,
        "jobs",
        keyed=True,
        ordered=True,
        visibility_timeout_seconds=LEASE_SECONDS,
        max_retry_attempts=100,
    )
    await connection.execute(LEDGER)
    ledger = tmp_path / "ledger"
    async with AsyncExitStack() as stack:
        own = await asyncpg.connect(database_url)
        stack.push_async_callback(own.close)
        producer = await stack.enter_async_context(Producer(database_url, own))
        end = asyncio.Event()
        producing = asyncio.create_task(producer.run(end))
        stack.callback(producing.cancel)
        fleet = await stack.enter_async_context(
            faulty_fleet(database_url, "of_ordered_key", ledger=ledger, lease_seconds=LEASE_SECONDS)
        )
        for _ in range(FAULTS):
            await fleet.suffer(connection)
        end.set()
        await producing
        await eventually(producer.is_done, timeout=120)
    rows = await connection.fetch("select * from ledger order by number")
    assert breaches(rows) == []
    # All jobs have run, and no key has waited for others.
    assert {line[1] for line in ledger_lines(ledger)} == set(producer.sent)
    for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        assert {row["key"] for row in half if row["what"] == "leased"} == set(KEYS)
    # It was worth watching: jobs were replayed, leases lost, and given back unused or for a retry.
    whats = Counter(row["what"] for row in rows)
    assert whats["came"] > len(producer.sent)
    assert whats["leased"] > whats["came"] + whats["let go"]
    assert whats["extended"] > 0
    assert whats["let go"] > len(KEYS)
