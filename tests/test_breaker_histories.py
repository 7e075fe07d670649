"""Circuit breakers of keys in random histories, beside a model of what they have to do."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import Job, QueueService, get_queue_config, list_keys, resume_key
from meshhook.administration import set_queue_config
from meshhook.names import KEY_HEADER
from meshhook.outcomes import AttemptOutcome
from meshhook.postgres.connecting import connect
from meshhook.queue_config import KeyPlace
from meshhook.store import queries
from meshhook.store.claims import claim
from meshhook.store.settlements import BreakerCount, Settlement, settle

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

TABLES = queries.QueueTables("jobs")
KEYS = ("a", "b", "")
FAILURES = 3
STEPS = 300
# The clock is read after the snapshot: what has ended by then was ended for every later claim.
STATE = """
    select coalesce(headers ->> 'x-pgmq-group', '') as key,
        count(*) filter (where vt > clock_timestamp()
            and meshhook.has_open_attempt(read_ct, headers)) as running,
        count(*) filter (where vt <= clock_timestamp()) as due
    from pgmq.q_jobs group by 1
"""


@dataclass
class Model:
    """What the breaker of one key has to be."""

    failures: int = 0
    opened_at_step: int | None = None
    """None if it is closed."""
    is_waiting: bool = False
    """Whether its pause goes on."""
    openings: int = 0

    @property
    def state(self) -> str:
        """Its state, as `KeyState` has it."""
        if self.opened_at_step is None:
            return "closed"
        return "open" if self.is_waiting else "half-open"

    def fail(self, started_at_step: int, step: int) -> None:
        """Note a failure of an attempt that started then."""
        if self.opened_at_step is None:
            self.failures += 1
            if self.failures < FAILURES:
                return
            self.opened_at_step = step
        elif self.is_waiting or started_at_step < self.opened_at_step:
            return
        else:
            self.failures += 1
        self.is_waiting = True
        self.openings += 1

    def succeed(self, started_at_step: int) -> None:
        """Note a success of an attempt that started then."""
        if self.opened_at_step is None or started_at_step >= self.opened_at_step:
            self.close()

    def close(self) -> None:
        """Start anew."""
        self.failures, self.opened_at_step, self.is_waiting, self.openings = 0, None, False, 0


class History:
    """A queue with breakers, and what its producers, workers and administrators do with it."""

    def __init__(self, connection: Connection, pool: asyncpg.Pool[Any], seed: int) -> None:
        self.connection = connection
        self.service = QueueService[Any](pool, "jobs")
        self.chances = random.Random(seed)
        self.held: list[tuple[Job[Any], int]] = []
        """Jobs under a lease, as far as their workers know, and the steps of their claims."""
        self.models = {key: Model() for key in KEYS}
        self.step = 0
        self.seen: Counter[str] = Counter()

    async def send(self) -> None:
        """Some jobs of a key."""
        key = self.chances.choice(KEYS)
        await self.service.enqueue_many([{}] * self.chances.randint(1, 4), key=key or None)

    async def claim(self) -> None:
        """Claim; where nothing is taken, everything that is due waits for a breaker."""
        before, _ = await self.counts()
        config = await get_queue_config(self.connection, "jobs")
        claimed = await claim(
            self.connection,
            TABLES,
            lease_seconds=600,
            limit=self.chances.randint(1, 5),
            max_attempts=1000,
            keys=KeyPlace(),
            is_limited=config.is_limited,
            from_key=self.chances.choice(["", "b", None]),
        )
        self.held += [(job, self.step) for job in claimed.jobs]
        taken = Counter(job.headers.get(KEY_HEADER, "") for job in claimed.jobs)
        for key, jobs in taken.items():
            state = self.models[key].state
            assert state != "open", key
            if state == "half-open":
                self.seen["probes"] += 1
                assert (before[key], jobs) == (0, 1), key
        if not claimed.jobs:
            running, due = await self.counts()
            for key in due:
                state = self.models[key].state
                assert not due[key] or state == "open" or (state == "half-open" and running[key])

    async def end(self) -> None:
        """Record the outcomes of some jobs in one batch, some perhaps too late."""
        outcome, is_failure = self.chances.choice(
            [
                *[(AttemptOutcome.SUCCEEDED, False)] * 5,
                *[(AttemptOutcome.RETRIED, True)] * 5,
                (AttemptOutcome.RETRIED, False),
                (AttemptOutcome.SNOOZED, False),
                (AttemptOutcome.DEAD_LETTERED, False),
                (AttemptOutcome.DEAD_LETTERED, True),
            ]
        )
        self.chances.shuffle(self.held)
        # One key once a batch: the order within one is not said.
        batch = {job.headers.get(KEY_HEADER, ""): (job, at) for job, at in self.held[:2]}
        jobs = [job for job, _ in batch.values()]
        if not jobs:
            return
        self.held = [each for each in self.held if each[0] not in jobs]
        breakers = BreakerCount(None, [is_failure] * len(jobs))
        settlements = [
            Settlement(
                job.msg_id,
                job.read_ct,
                job.enqueued_timestamp,
                job.attempt,
                outcome,
                job.claimed_timestamp,
                job.claimed_timestamp,
            )
            for job in jobs
        ]
        settled = await settle(self.connection, TABLES, "w", settlements, breakers)
        opened = set()
        for position, (key, (_, at)) in enumerate(batch.items()):
            if position not in settled:
                continue
            model, openings = self.models[key], self.models[key].openings
            if is_failure:
                model.fail(at, self.step)
            elif outcome is AttemptOutcome.SUCCEEDED:
                was_closed = model.state == "closed"
                model.succeed(at)
                self.seen["closed"] += not was_closed and model.state == "closed"
            if model.openings > openings:
                opened.add(key)
        assert {change.key for change in breakers.changes if change.is_open} == opened
        self.seen["opened"] += len(opened)

    async def release(self) -> None:
        """Give a lease back."""
        if self.held:
            job, _ = self.held.pop()
            await self.service.release(job)

    async def die(self) -> None:
        """Let the leases of a worker that died end."""
        dead, self.held = self.held[:3], self.held[3:]
        await self.expire([job.msg_id for job, _ in dead])

    async def outlive(self) -> None:
        """Let a lease end while its worker knows nothing of it."""
        if self.held:
            job, _ = self.chances.choice(self.held)
            await self.expire([job.msg_id])

    async def expire(self, msg_ids: list[int]) -> None:
        """Let leases end."""
        await self.connection.execute(
            "update pgmq.q_jobs set vt = clock_timestamp() - interval '1 millisecond' "
            "where msg_id = any ($1) and vt > now()",
            msg_ids,
        )

    async def pause_ends(self) -> None:
        """Let the pause of a breaker be over."""
        key = self.chances.choice(KEYS)
        await self.connection.execute(
            "update meshhook.breakers set probe_at = now() - interval '1 ms' "
            "where key = $1 and probe_at is not null",
            key,
        )
        self.models[key].is_waiting = False

    async def resume(self) -> None:
        """Close the breaker of a key by hand."""
        if self.chances.random() < 0.2:
            key = self.chances.choice(KEYS)
            await resume_key(self.connection, "jobs", key)
            self.models[key].close()

    async def counts(self) -> tuple[Counter[str], Counter[str]]:
        """Return what runs and what is due of each key."""
        rows = await self.connection.fetch(STATE)
        return (
            Counter({row["key"]: row["running"] for row in rows}),
            Counter({row["key"]: row["due"] for row in rows}),
        )

    async def check(self) -> None:
        """Each breaker is what the model says."""
        found = {each.key: each for each in await list_keys(self.connection, "jobs")}
        for key, model in self.models.items():
            if key in found:
                state = (str(found[key].breaker), found[key].failures_in_a_row)
                assert state == (model.state, model.failures), key
            else:
                assert model.failures == 0, key

    async def play(self) -> None:
        """Let all of it happen in a random order."""
        ways = [
            self.send,
            self.release,
            self.die,
            self.outlive,
            self.pause_ends,
            self.pause_ends,
            self.resume,
        ]
        often = [self.claim] * 3 + [self.end] * 6
        for self.step in range(STEPS):
            await self.chances.choice([*ways, *often])()
            await self.check()
        assert min(self.seen[each] for each in ("opened", "closed", "probes")) > 0, self.seen


@pytest.fixture
async def keyed(database_url: str, queue_name: str) -> AsyncIterator[Connection]:
    """A worker's own connection to a database whose queue `jobs` has breakers."""
    connection = await connect(database_url, steady_plans=True)
    # A pause ends when the history says so, and not while it goes on.
    await set_queue_config(
        connection,
        queue_name,
        keyed=True,
        breaker_failures=FAILURES,
        breaker_pause_seconds=3_600,
        breaker_max_pause_seconds=3_600,
    )
    yield connection
    await connection.close()


@pytest.mark.parametrize("seed", range(3))
async def test_breakers_do_what_the_model_does(
    keyed: Connection, pool: asyncpg.Pool[Any], seed: int
) -> None:
    """Whatever ends in whatever way, is released, lost or late: at most one probe, none stuck."""
    await History(keyed, pool, seed).play()
