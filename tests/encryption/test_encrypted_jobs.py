"""Encrypted jobs: enqueued, run, retried and buried without their payload in the database."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
import psycopg
import pytest
from pydantic import BaseModel

from meshhook import (
    DeadLetter,
    DLQService,
    Done,
    EncryptionError,
    EncryptionRequiredError,
    FollowUp,
    InvalidJobError,
    Job,
    JobTooLargeError,
    KeyRing,
    QueueService,
    RetryAfter,
    SyncQueueService,
    UnknownEncryptionKeyError,
    add_schedule,
    bind_topic,
    create_job_handler,
    create_queue,
    run_schedule,
    set_queue_config,
)
from meshhook.encryption.envelope import Place, seal
from meshhook.encryption.key_file import add_key
from support.command_line import run_command
from support.waiting import eventually
from support.workers import make_worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

pytestmark = pytest.mark.usefixtures("queue_name")

CANARY = "canary-5105-1051"
FIRST, SECOND = bytes(range(32)), bytes(range(32, 64))


def ring(*key_ids: str, **options: Any) -> KeyRing:
    """Return a ring with these keys, of which k1 and k2 are always the same."""
    known = {"k1": FIRST, "k2": SECOND}
    return KeyRing({key_id: known[key_id] for key_id in key_ids}, **options)


class Card(BaseModel):
    """A payload with a secret."""

    number: str
    amount: int


async def all_text(connection: Connection) -> str:
    """Return every row of every table of the schemas meshhook and pgmq as text."""
    tables = await connection.fetch(
        "select format('%I.%I', schemaname, tablename) as name from pg_tables "
        "where schemaname in ('meshhook', 'pgmq')"
    )
    rows = []
    for table in tables:
        found = await connection.fetch(f"select t::text as row from {table['name']} t")
        rows += [f"{table['name']}: {row['row']}" for row in found]
    return "\n".join(rows)


@asynccontextmanager
async def working(url: str, handler: Any, **options: Any) -> AsyncIterator[None]:
    """Run a worker while the block runs."""
    async with make_worker(url, handler, **options):
        yield


async def history(connection: Connection, msg_id: int) -> list[asyncpg.Record]:
    """Return the attempts of a job."""
    return await connection.fetch(
        "select * from meshhook.job_attempts where msg_id = $1 order by attempt", msg_id
    )


async def fast_retries(database: Any, **settings: Any) -> None:
    """Let retries of the queue come at once."""
    await set_queue_config(
        database, "jobs", retry_backoff_base_ms=0, retry_backoff_max_ms=0, **settings
    )


async def test_a_job_comes_back_as_it_was(
    database_url: str, connection: Connection, pool: Pool
) -> None:
    """The handler gets its payload and identifiers; the message shows identifiers only."""
    seen: list[Job[Card]] = []

    async def handler(job: Job[Card]) -> None:
        seen.append(job)

    handled = create_job_handler(handler, payload_model=Card)
    card = Card(number=CANARY, amount=7)
    async with QueueService[Any](pool, "jobs", encryption=ring("k1")) as service:
        await service.enqueue({"run_id": "r", "workflow_id": 12, "payload": card})
        message = json.loads(await connection.fetchval("select message from pgmq.q_jobs"))
        assert message.keys() == {"run_id", "workflow_id", "enc"}
        assert (message["run_id"], message["workflow_id"]) == ("r", "12")
        async with working(database_url, handled, encryption=ring("k1")):
            await eventually(lambda: seen)
    assert seen[0].payload == card
    assert seen[0].is_encrypted
    assert (seen[0].run_id, seen[0].workflow_id) == ("r", "12")


async def test_nothing_of_a_payload_is_in_the_database_or_in_the_log(
    database_url: str, connection: Connection, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    """Not of a job that fails, is refused or succeeds, its results, follow-ups and groups."""
    caplog.set_level(logging.DEBUG)
    await fast_retries(pool, max_retry_attempts=2, results=True)
    await create_queue(pool, "after")
    keys = ring("k1")

    async def handler(job: Job[Any]) -> Any:
        kind = job.payload["kind"]
        if kind == "error":
            raise ValueError(f"cannot charge {job.payload['card']}")
        if kind == "asked":
            raise RetryAfter(0, f"no {job.payload['card']}", error_type="Limited")
        if kind == "buried":
            return DeadLetter(f"bad {job.payload['card']}")
        if kind == "unkept":
            return {job.payload["card"]: "x" * 70_000}
        if kind == "odd result":
            return {"card": job.payload["card"], "odd": object()}
        follow_up = FollowUp("after", {"card": job.payload["card"]})
        return Done(then=follow_up, result={"card": job.payload["card"]})

    kinds = ["error", "asked", "buried", "unkept", "odd result", "good"]
    async with QueueService[Any](pool, "jobs", encryption=keys) as service:
        jobs = [{"kind": kind, "card": CANARY} for kind in kinds]
        ids = await service.enqueue_many(
            jobs, group="g", on_complete=FollowUp("after", {"all": CANARY})
        )
        wrong = await service.enqueue("no object: " + CANARY)
        await add_schedule(
            pool, "jobs", "nightly", every=3600, payload={"card": CANARY}, encryption=keys
        )
        async with working(database_url, handler, encryption=keys):
            ends = [await service.wait(each, timeout_seconds=60) for each in [*ids, wrong]]
        assert [end.outcome for end in ends] == [
            *["dead_lettered"] * 3,
            *["succeeded"] * 3,
            "dead_lettered",
        ]
        assert ends[5].result == {"card": CANARY}
        assert ends[3].error_type == ends[4].error_type == "ResultRefusedError"
        assert [end.error_type for end in ends[:3]] == ["ValueError", "Limited", "DeadLetter"]
        assert ends[0].error_message == "withheld, because the job is encrypted"
    text = await all_text(connection)
    assert "ValueError" in text  # so it looks where errors are
    assert CANARY not in text
    assert CANARY not in caplog.text
    assert await connection.fetchval("select count(*) from pgmq.q_after") == 2


async def test_a_ring_can_keep_error_messages(
    database_url: str, connection: Connection, pool: Pool
) -> None:
    """Whoever needs them more than secrecy asks for them."""
    keys = ring("k1", keeps_error_messages=True)
    await fast_retries(pool, max_retry_attempts=1)

    async def handler(job: Job[Any]) -> None:
        raise ValueError(f"cannot charge {job.payload}")

    async with QueueService[Any](pool, "jobs", encryption=keys) as service:
        msg_id = await service.enqueue(CANARY)
        async with working(database_url, handler, encryption=keys):
            end = await service.wait(msg_id, timeout_seconds=60)
    assert end.error_message == f"cannot charge {CANARY}"
    [attempt] = await history(connection, msg_id)
    assert "raise ValueError" in attempt["error_stack"]


async def test_the_message_of_a_timeout_is_kept(database_url: str, pool: Pool) -> None:
    """What the worker itself says holds nothing of the payload."""
    await fast_retries(pool, max_retry_attempts=1, job_timeout_seconds=0.01)

    async def handler(_: Job[Any]) -> None:
        await asyncio.sleep(60)

    async with QueueService[Any](pool, "jobs", encryption=ring("k1")) as service:
        msg_id = await service.enqueue(CANARY)
        async with working(database_url, handler, encryption=ring("k1")):
            end = await service.wait(msg_id, timeout_seconds=60)
    assert end.error_message == "the attempt ran longer than 0.01 seconds"


async def test_a_lost_key_loses_no_job(
    database_url: str, connection: Connection, pool: Pool
) -> None:
    """The job is tried again, becomes a dead letter that names the key, and is replayed later."""
    seen: list[Any] = []

    async def handler(job: Job[Any]) -> None:
        seen.append(job.payload)

    await fast_retries(pool, max_retry_attempts=3)
    async with QueueService[Any](pool, "jobs", encryption=ring("k1")) as service:
        msg_id = await service.enqueue({"run_id": "r", "card": CANARY})
        for keys in (None, ring("k2")):
            async with working(database_url, handler, encryption=keys):
                end = await service.wait(msg_id, timeout_seconds=60)
            assert end.outcome == "dead_lettered"
            assert (end.attempts, end.error_type) == (3, "UnknownEncryptionKeyError")
            assert "key 'k1'" in str(end.error_message)
            assert "nothing is lost" in str(end.error_message)
            attempts = await history(connection, msg_id)
            assert {row["run_id"] for row in attempts} == {"r"}
            assert {row["error_stack"] for row in attempts} == {None}
            [dead] = await DLQService(pool, "jobs").list_dead_letter_jobs()
            msg_id = await DLQService(pool, "jobs").replay_dead_letter_job(dead.id)
        async with working(database_url, handler, encryption=ring("k2", "k1")):
            assert (await service.wait(msg_id, timeout_seconds=60)).outcome == "succeeded"
    assert seen == [{"run_id": "r", "card": CANARY}]


@pytest.mark.parametrize("what", ["ciphertext", "run", "queue"])
async def test_a_changed_message_is_buried_at_once(
    what: str, database_url: str, connection: Connection, pool: Pool
) -> None:
    """Its handler never sees it, and no attempt is repeated."""
    seen: list[Any] = []

    async def handler(job: Job[Any]) -> None:
        seen.append(job.payload)

    keys = ring("k1")
    if what == "queue":
        body = seal("{}", keys.first, Place("queue", "others"), {})
        msg_id = await connection.fetchval("select pgmq.send('jobs', $1::jsonb)", body)
    else:
        async with QueueService[Any](pool, "jobs", encryption=keys) as service:
            msg_id = await service.enqueue({"run_id": "r", "card": CANARY})
        path = "{run_id}" if what == "run" else "{enc,data}"
        await connection.execute(
            "update pgmq.q_jobs set message = jsonb_set(message, $1::text::text[], "
            """'"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"')""",
            path,
        )
    async with (
        QueueService[Any](pool, "jobs", encryption=keys) as service,
        working(database_url, handler, encryption=keys),
    ):
        end = await service.wait(msg_id, timeout_seconds=60)
    assert (end.outcome, end.attempts) == ("dead_lettered", 1)
    assert end.error_type == "DecryptionError"
    assert not seen


async def test_a_worker_without_keys_says_so_when_it_starts(
    database_url: str, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """And not only in the dead letters, when all attempts are over."""
    await set_queue_config(connection, "jobs", encryption="require")

    async def handler(_: Job[Any]) -> None: ...

    async with working(database_url, handler, encryption=ring("k1")):
        assert "this worker has no keys" not in caplog.text
    async with working(database_url, handler):
        assert "this worker has no keys" in caplog.text


async def test_a_required_queue_refuses_what_is_plain(
    database_url: str, connection: Connection, pool: Pool
) -> None:
    """The library and SQL refuse it at the producer, and a worker buries that of other clients."""
    seen: list[Any] = []

    async def handler(job: Job[Any]) -> None:
        seen.append(job.payload)

    await set_queue_config(pool, "jobs", encryption="require")
    async with QueueService[Any](pool, "jobs") as service:
        with pytest.raises(EncryptionRequiredError, match="takes encrypted jobs only"):
            await service.enqueue({"a": 1})
        with pytest.raises(EncryptionRequiredError):
            await service.enqueue_many([{"a": 1}])
    with pytest.raises(asyncpg.PostgresError, match="SQL cannot encrypt") as refused:
        await connection.fetch("""select meshhook.enqueue('jobs', '{"a": 1}'::jsonb)""")
    assert refused.value.sqlstate == "MHQ20"
    foreign = await connection.fetchval("""select pgmq.send('jobs', '{"run_id": "r"}'::jsonb)""")
    keys = ring("k1")
    async with QueueService[Any](pool, "jobs", encryption=keys) as service:
        mine = await service.enqueue({"b": 2})
        async with working(database_url, handler, encryption=keys):
            end = await service.wait(foreign, timeout_seconds=60)
            assert (await service.wait(mine, timeout_seconds=60)).outcome == "succeeded"
        assert (end.outcome, end.error_type) == ("dead_lettered", "UnencryptedMessageError")
        assert "encryption=accept" in str(end.error_message)
        [attempt] = await history(connection, foreign)
        assert attempt["run_id"] == "r"
        await set_queue_config(pool, "jobs", encryption="accept")
        [dead] = await DLQService(pool, "jobs").list_dead_letter_jobs()
        again = await DLQService(pool, "jobs").replay_dead_letter_job(dead.id)
        async with working(database_url, handler, encryption=keys):
            assert (await service.wait(again, timeout_seconds=60)).outcome == "succeeded"
    assert seen == [{"b": 2}, {"run_id": "r"}]


async def test_the_database_takes_encrypted_jobs_of_a_required_queue(
    connection: Connection,
) -> None:
    """A job that follows is such a job: it was encrypted by the worker."""
    await set_queue_config(connection, "jobs", encryption="require")
    body = seal("{}", ring("k1").first, Place("queue", "jobs"), {})
    assert await connection.fetchval("select meshhook.enqueue('jobs', $1::jsonb)", body)


async def test_a_job_of_a_required_queue_cannot_follow_from_a_worker_without_keys(
    database_url: str, pool: Pool
) -> None:
    """The attempt fails, as with every job that cannot follow."""
    await create_queue(pool, "after")
    await set_queue_config(pool, "after", encryption="require")
    await fast_retries(pool, max_retry_attempts=1)

    async def handler(_: Job[Any]) -> Done:
        return Done(then=FollowUp("after", {}))

    async with QueueService[Any](pool, "jobs") as service:
        msg_id = await service.enqueue({})
        async with working(database_url, handler):
            end = await service.wait(msg_id, timeout_seconds=60)
    assert (end.outcome, end.error_type) == ("dead_lettered", "FollowUpRefusedError")


async def test_large_messages_are_decrypted(
    database_url: str, connection: Connection, pool: Pool
) -> None:
    """Those that are read apart from their claim, and those that are decrypted in a thread."""
    seen: list[int] = []

    async def handler(job: Job[Any]) -> None:
        seen.append(len(job.payload))

    keys = ring("k1")
    sizes = [100_000, 600_000]
    async with QueueService[Any](pool, "jobs", encryption=keys) as service:
        ids = [await service.enqueue("x" * size) for size in sizes]
        async with working(database_url, handler, encryption=keys):
            for each in ids:
                assert (await service.wait(each, timeout_seconds=60)).outcome == "succeeded"
        with pytest.raises(JobTooLargeError, match="bytes of JSON when encrypted"):
            await service.enqueue("x" * 1_000_000)
    assert sorted(seen) == sizes


async def test_a_key_in_the_body_stays_readable(
    database_url: str, connection: Connection, pool: Pool
) -> None:
    """A keyed queue finds it where its path says; an object is refused."""
    await set_queue_config(pool, "jobs", keyed=True, key_path="payload.tenant")
    seen: list[Any] = []

    async def handler(job: Job[Any]) -> None:
        seen.append(job.payload)

    keys = ring("k1")
    async with QueueService[Any](pool, "jobs", encryption=keys) as service:
        payload = {"tenant": "t-1", "card": CANARY}
        await service.enqueue({"run_id": "r", "payload": payload})
        await service.enqueue({"run_id": "r", "payload": {"tenant": 7}})
        with pytest.raises(InvalidJobError, match=r"payload\.tenant, is an object"):
            await service.enqueue({"payload": {"tenant": {}}})
        found = await connection.fetch(
            "select message #>> '{payload,tenant}' as tenant from pgmq.q_jobs order by msg_id"
        )
        assert [row["tenant"] for row in found] == ["t-1", "7"]
        assert CANARY not in await all_text(connection)
        async with working(database_url, handler, encryption=keys):
            await eventually(lambda: len(seen) == 2)
    assert payload in seen


async def test_a_job_that_cannot_be_encrypted_is_named(
    database_url: str, connection: Connection, pool: Pool
) -> None:
    """One of many, as where one cannot be stored: in the library, its sync form and the command."""
    await set_queue_config(pool, "jobs", keyed=True, key_path="tenant")
    jobs: list[Any] = [{"tenant": "a"}, {"tenant": "b"}, {"tenant": {}}]
    async with QueueService[Any](pool, "jobs", encryption=ring("k1")) as service:
        with pytest.raises(InvalidJobError, match="is an object") as refused:
            await service.enqueue_many(jobs)
    assert refused.value.__notes__ == ["job 2 of the batch, counted from 0"]
    with (
        psycopg.connect(database_url) as own,
        pytest.raises(InvalidJobError, match="is an object") as refused,
    ):
        SyncQueueService(own, "jobs", encryption=ring("k1")).enqueue_many(jobs)
    assert refused.value.__notes__ == ["job 2 of the batch, counted from 0"]
    assert await connection.fetchval("select count(*) from pgmq.q_jobs") == 0


def test_the_command_names_the_line_that_cannot_be_encrypted(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is before it is stored, as with every bad line."""
    asyncio.run(set_queue_config(database_url, "jobs", keyed=True, key_path="tenant"))
    monkeypatch.setenv("MESHHOOK_DATABASE_URL", database_url)
    keys, lines = tmp_path / "keys", tmp_path / "jobs.jsonl"
    add_key(keys, "k1")
    monkeypatch.setenv("MESHHOOK_ENCRYPTION_KEY_FILE", str(keys))
    lines.write_text('{"tenant": "a"}\n{"tenant": {}}\n{"tenant": "b"}\n')
    done = run_command(["enqueue", "jobs", "--file", str(lines)])
    assert done.code != 0
    assert "line 2: the key of the job, at tenant, is an object" in " ".join(done.err.split())
    with psycopg.connect(database_url) as own:
        assert own.execute("select count(*) from pgmq.q_jobs").fetchone() == (1,)


async def test_a_key_where_the_ciphertext_would_be_is_refused(pool: Pool) -> None:
    """It would be stored in place of the payload."""
    await set_queue_config(pool, "jobs", keyed=True, key_path="enc.tenant")
    job = {"enc": {"tenant": "t-1"}, "card": CANARY}
    async with QueueService[Any](pool, "jobs", encryption=ring("k1")) as service:
        with pytest.raises(InvalidJobError, match=r"keys from enc\.tenant"):
            await service.enqueue(job)
    assert await QueueService[Any](pool, "jobs").enqueue(job)


@pytest.mark.parametrize("has_keys", [False, True])
async def test_a_plain_job_may_have_a_field_of_that_name(
    has_keys: bool, database_url: str, pool: Pool
) -> None:
    """A job of somebody who has fields called enc and v is run as it is."""
    seen: list[Any] = []

    async def handler(job: Job[Any]) -> None:
        seen.append((job.payload, job.is_encrypted))

    job = {"enc": {"v": 2, "key": "a", "data": "b"}}
    msg_id = await QueueService[Any](pool, "jobs").enqueue(job)
    keys = ring("k1") if has_keys else None
    async with (
        QueueService[Any](pool, "jobs") as service,
        working(database_url, handler, encryption=keys),
    ):
        assert (await service.wait(msg_id, timeout_seconds=60)).outcome == "succeeded"
    assert seen == [(job, False)]


async def test_sql_refuses_an_encrypted_job_without_the_key_of_its_queue(
    connection: Connection,
) -> None:
    """What follows a job has its key in a header: its queue's path is not known there."""
    await set_queue_config(connection, "jobs", keyed=True, key_path="tenant")
    body = seal("{}", ring("k1").first, Place("queue", "jobs"), {})
    with pytest.raises(asyncpg.PostgresError, match="has no readable key at tenant") as refused:
        await connection.fetchval("select meshhook.enqueue('jobs', $1::jsonb)", body)
    assert refused.value.sqlstate == "MHQ20"


async def test_a_published_job_reaches_every_bound_queue(
    database_url: str, connection: Connection, pool: Pool
) -> None:
    """It is encrypted once, for its topic."""
    try:
        await bind_topic(pool, "jobs", "cards.#")
    except Exception as error:  # noqa: BLE001 - of an older PGMQ
        pytest.skip(str(error))
    seen: list[Any] = []

    async def handler(job: Job[Any]) -> None:
        seen.append(job.payload)

    keys = ring("k1")
    async with QueueService[Any](pool, "jobs", encryption=keys) as service:
        assert await service.publish("cards.new", {"card": CANARY})
        assert CANARY not in await all_text(connection)
        async with working(database_url, handler, encryption=keys):
            await eventually(lambda: seen)
    assert seen == [{"card": CANARY}]


async def test_a_schedule_is_encrypted_once(connection: Connection, pool: Pool) -> None:
    """To declare it again changes nothing; with another first key, it is encrypted again."""

    async def declare(keys: KeyRing, payload: Any = CANARY) -> bool:
        return await add_schedule(
            pool, "jobs", "nightly", every=3600, payload=payload, encryption=keys
        )

    assert await declare(ring("k1"))
    assert not await declare(ring("k1"))
    assert not await declare(ring("k2", "k1"))  # it can still be read
    assert await declare(ring("k2", "k1"), "other")
    assert await declare(ring("k1"), "other")  # this one cannot read it
    await run_schedule(pool, "jobs", "nightly")
    async with QueueService[Any](pool, "jobs", encryption=ring("k1")) as service:
        job = await service.dequeue()
    assert job is not None
    assert job.payload == "other"


async def test_a_service_decrypts_what_it_claims(connection: Connection, pool: Pool) -> None:
    """One without the key says so and leaves the job leased; one that was changed is buried."""
    async with QueueService[Any](pool, "jobs", encryption=ring("k1")) as service:
        await service.enqueue({"card": CANARY})
    async with QueueService[Any](pool, "jobs") as stranger:
        with pytest.raises(UnknownEncryptionKeyError):
            await stranger.dequeue(0.001)
        await eventually(
            lambda: connection.fetchval("select vt < clock_timestamp() from pgmq.q_jobs")
        )
    async with QueueService[Any](pool, "jobs", encryption=ring("k2", "k1")) as service:
        job = await service.dequeue()
        assert job is not None
        assert job.payload == {"card": CANARY}
        await service.acknowledge(job)
        await service.enqueue({})
        await connection.execute("""update pgmq.q_jobs set message = message || '{"run_id": ""}'""")
        assert await service.dequeue() is None
    [dead] = await DLQService(pool, "jobs").list_dead_letter_jobs()
    assert dead.error_type == "DecryptionError"


async def test_a_job_of_a_lost_key_is_not_claimed_for_ever(pool: Pool) -> None:
    """Its last attempt ends in the dead letters, also where jobs are claimed by hand."""
    await set_queue_config(pool, "jobs", max_retry_attempts=2)
    async with QueueService[Any](pool, "jobs", encryption=ring("k1")) as service:
        await service.enqueue({})
    async with QueueService[Any](pool, "jobs", encryption=ring("k2")) as service:
        for _ in range(2):
            with pytest.raises(UnknownEncryptionKeyError):
                await service.dequeue()
            await pool.execute("update pgmq.q_jobs set vt = now()")
        assert await service.dequeue() is None
    [letter] = await DLQService(pool, "jobs").list_dead_letter_jobs()
    assert letter.error_type == "UnknownEncryptionKeyError"


def test_the_sync_service_encrypts(database_url: str) -> None:
    """Over its own connections."""
    with SyncQueueService[Any](database_url, "jobs", encryption=ring("k1")) as service:
        msg_id = service.enqueue({"card": CANARY})

    async def read() -> Any:
        async with QueueService[Any](database_url, "jobs", encryption=ring("k1")) as other:
            return await other.dequeue()

    job = asyncio.run(read())
    assert (job.msg_id, job.payload) == (msg_id, {"card": CANARY})


async def test_a_dead_letter_goes_to_another_queue_with_the_keys_only(
    database_url: str, connection: Connection, pool: Pool
) -> None:
    """It is encrypted anew for that queue; without the keys it stays where it is."""
    await create_queue(pool, "others")
    await set_queue_config(pool, "others", keyed=True, key_path="tenant")
    await fast_retries(pool, max_retry_attempts=1)

    async def fail(_: Job[Any]) -> None:
        raise ValueError

    keys = ring("k2", "k1")
    async with QueueService[Any](pool, "jobs", encryption=ring("k1")) as service:
        msg_id = await service.enqueue({"tenant": "t", "card": CANARY})
        async with working(database_url, fail, encryption=keys):
            await service.wait(msg_id, timeout_seconds=60)
    [dead] = await DLQService(pool, "jobs").list_dead_letter_jobs()
    with pytest.raises(EncryptionError, match="only with the keys"):
        await DLQService(pool, "jobs").replay_dead_letter_job(dead.id, "others")
    assert await DLQService(pool, "jobs").list_dead_letter_jobs() == [dead]
    await DLQService(pool, "jobs", encryption=keys).replay_dead_letter_job(dead.id, "others")
    message = json.loads(await connection.fetchval("select message from pgmq.q_others"))
    assert (message["tenant"], message["enc"]["key"]) == ("t", "k2")
    async with QueueService[Any](pool, "others", encryption=keys) as service:
        job = await service.dequeue()
    assert job is not None
    assert job.payload == {"tenant": "t", "card": CANARY}


async def test_a_plain_dead_letter_is_encrypted_for_a_queue_that_requires_it(
    database_url: str, pool: Pool
) -> None:
    """Without keys it stays: there it would be a dead letter at once."""
    seen: list[Any] = []

    async def handler(job: Job[Any]) -> None:
        seen.append((job.run_id, job.payload, job.is_encrypted))

    await create_queue(pool, "vault")
    await set_queue_config(pool, "vault", encryption="require")
    async with QueueService[Any](pool, "jobs") as service:
        await service.enqueue({"run_id": "r", "payload": {"card": CANARY}})
        job = await service.dequeue()
    assert job is not None
    dead = await DLQService(pool, "jobs").move_to_dead_letter(job, "no")
    assert dead is not None
    with pytest.raises(EncryptionRequiredError, match="queue 'vault' takes encrypted jobs only"):
        await DLQService(pool, "jobs").replay_multiple_jobs(target_queue="vault")
    keys = ring("k1")
    await DLQService(pool, "jobs", encryption=keys).replay_dead_letter_job(dead, "vault")
    async with working(database_url, handler, queue_name="vault", encryption=keys):
        await eventually(lambda: bool(seen))
    assert seen == [("r", {"card": CANARY}, True)]


async def test_a_key_that_comes_later_is_found_while_the_job_waits(
    database_url: str, pool: Pool
) -> None:
    """A worker asks its source for a key that it does not know before it spends an attempt."""
    given = [{"k1": FIRST}, {"k2": SECOND, "k1": FIRST}]
    asked = 0

    async def load() -> dict[str, bytes]:
        nonlocal asked
        asked += 1
        return given[min(asked, 2) - 1]

    async def handler(_: Job[Any]) -> None:
        pass

    keys = KeyRing.from_function(load)
    keys._source.unknown_check_seconds = 0
    await fast_retries(pool, max_retry_attempts=1)
    async with (
        QueueService[Any](pool, "jobs", encryption=ring("k2")) as service,
        working(database_url, handler, encryption=keys),
    ):
        end = await service.wait(await service.enqueue(CANARY), timeout_seconds=60)
    assert (end.outcome, end.attempts, asked) == ("succeeded", 1, 2)


async def test_a_dead_letter_is_replayed_with_a_new_message(
    connection: Connection, pool: Pool
) -> None:
    """With the keys it is encrypted; an encrypted one that was edited is refused, and stays."""
    keys = ring("k1")
    await create_queue(pool, "others")
    async with QueueService[Any](pool, "jobs", encryption=keys) as service:
        for _ in range(3):
            await service.enqueue({"card": CANARY})
            job = await service.dequeue()
            assert job is not None
            await DLQService(pool, "jobs").move_to_dead_letter(job, "no")
    first, second, third = await DLQService(pool, "jobs").list_dead_letter_jobs()
    assert first.body is not None
    edited = json.dumps(json.loads(first.body) | {"run_id": "other"})
    with pytest.raises(EncryptionError, match="was changed"):
        await DLQService(pool, "jobs").replay_dead_letter_job(first.id, body=edited)
    await DLQService(pool, "jobs").replay_dead_letter_job(first.id, body=first.body)
    with_keys = DLQService(pool, "jobs", encryption=keys)
    await with_keys.replay_dead_letter_job(second.id, body='{"card": "other"}')
    await with_keys.replay_dead_letter_job(third.id, "others", body='{"card": "other"}')
    found = []
    for queue in ("jobs", "others"):
        async with QueueService[Any](pool, queue, encryption=keys) as claiming:
            while (job := await claiming.dequeue()) is not None:
                found.append((job.payload["card"], job.is_encrypted))
                await claiming.acknowledge(job)
    assert found == [(CANARY, True), ("other", True), ("other", True)]


async def test_what_follows_a_dead_letter_is_encrypted(
    database_url: str, connection: Connection, pool: Pool
) -> None:
    """Its payload stands in a header until then; it gets the run of its job, unless it has one."""
    seen: list[Job[Any]] = []

    async def handler(job: Job[Any]) -> None:
        raise DeadLetter(str(job.payload))

    async def after(job: Job[Any]) -> None:
        seen.append(job)

    await create_queue(pool, "after")
    await set_queue_config(pool, "after", encryption="require")
    keys = ring("k1")
    payload = {"card": CANARY}
    follow_ups = [FollowUp("after", payload), FollowUp("after", payload, run_id="own")]
    async with QueueService[Any](pool, "jobs", encryption=keys) as service:
        await service.enqueue({"run_id": "r", "n": 1}, on_dead_letter=follow_ups[0])
        await service.enqueue_many([{"run_id": "s"}, {"n": 2}], on_dead_letter=follow_ups[1])
        raw = {"meshhook-on-dead-letter": {"queue": "after", "message": {"payload": payload}}}
        await service.enqueue_many([{"run_id": "t"}, {"run_id": "u"}], headers=raw)
        assert CANARY not in await all_text(connection)
        async with (
            working(database_url, handler, encryption=keys),
            working(database_url, after, queue_name="after", encryption=keys),
        ):
            await eventually(lambda: len(seen) == 5)
    assert {str(job.run_id) for job in seen} == {"r", "own", "t", "u"}
    for job in seen:
        assert job.is_encrypted
        assert job.payload == {"card": CANARY}
        assert job.failed_job is not None
        assert job.failed_job.error_message == "withheld, because the job is encrypted"
    assert CANARY not in await all_text(connection)


async def test_a_plain_follow_up_for_a_required_queue_is_refused_with_its_job(
    connection: Connection, pool: Pool, database_url: str
) -> None:
    """On every way to enqueue one, in the library and in SQL. Another queue may come later."""
    await create_queue(pool, "after")
    await set_queue_config(pool, "after", encryption="require")
    refused = FollowUp("after", {"card": CANARY})

    def refusing() -> Any:
        return pytest.raises(EncryptionRequiredError, match=r"on_dead_letter: queue 'after' takes")

    async with QueueService[Any](pool, "jobs") as service:
        with refusing():
            await service.enqueue({}, on_dead_letter=refused)
        with refusing():
            await service.enqueue_many([{}, {}], on_dead_letter=refused)
        with refusing():
            await service.enqueue_many([{}], on_dead_letter=refused, group="g")
        with refusing():
            await service.enqueue({}, on_dead_letter=refused, unique_key="u")
        async with connection.transaction():
            with refusing():
                await service.enqueue({}, on_dead_letter=refused, connection=connection)
        await bind_topic(pool, "jobs", "a.*")
        with pytest.raises(EncryptionRequiredError, match="meshhook-on-dead-letter"):
            await service.publish("a.b", {}, on_dead_letter=refused)
        await bind_topic(pool, "after", "b.*")
        with pytest.raises(EncryptionRequiredError, match="bound to the topic, takes encrypted"):
            await service.publish("b.c", {})
        assert await service.enqueue({}, on_dead_letter=FollowUp("later", {}))
        assert await service.enqueue({}, headers={"note": "meshhook-on-dead-letter"})
    with psycopg.connect(database_url) as own, refusing():
        SyncQueueService(own, "jobs").enqueue({}, on_dead_letter=refused)
    with pytest.raises(InvalidJobError, match="meshhook-on-dead-letter"):
        await add_schedule(pool, "jobs", "hourly", every=3600, on_dead_letter=refused)
    with pytest.raises(asyncpg.PostgresError, match="takes encrypted jobs only") as by_sql:
        await connection.execute(
            "select meshhook.enqueue('jobs', '{}', headers => meshhook.job_policy("
            "on_dead_letter => meshhook.follow_up('after', '{}')))"
        )
    assert by_sql.value.sqlstate == "MHQ20"
    assert await connection.fetchval("select count(*) from pgmq.q_jobs") == 2


async def test_a_plain_follow_up_is_not_lost_if_its_queue_requires_encryption_by_then(
    database_url: str, connection: Connection, pool: Pool
) -> None:
    """It becomes a dead letter of its queue, with all that it said, and can be replayed."""
    seen: list[Any] = []

    async def handler(_: Job[Any]) -> None:
        raise DeadLetter("no")

    async def after(job: Job[Any]) -> None:
        assert job.failed_job is not None
        seen.append((job.run_id, job.payload, job.failed_job.error_message))

    await create_queue(pool, "after")
    async with QueueService[Any](pool, "jobs") as service:
        follow_up = FollowUp("after", {"refund": 9}, key="acme", headers={"a": 1})
        await service.enqueue({"run_id": "r", "payload": {}}, on_dead_letter=follow_up)
        await set_queue_config(pool, "after", encryption="require")
        dlq = DLQService(pool, "after")
        async with (
            working(database_url, handler),
            working(database_url, after, queue_name="after", encryption=ring("k1")),
        ):

            async def letters() -> list[Any]:
                return await dlq.list_dead_letter_jobs()

            [letter] = await eventually(letters)
            assert letter.error_type == "UnencryptedMessageError"
            assert (letter.headers["a"], letter.headers["x-pgmq-group"]) == (1, "acme")
            await set_queue_config(pool, "after", encryption="accept")
            await dlq.replay_dead_letter_job(letter.id)
            await eventually(lambda: bool(seen))
    assert seen == [("r", {"refund": 9}, "no")]
    assert await connection.fetchval("select count(*) from pgmq.q_jobs_dlq") == 1


async def test_a_follow_up_for_a_queue_with_its_keys_in_the_body_has_its_key(
    database_url: str, connection: Connection, pool: Pool
) -> None:
    """It stays readable where the settings of that queue say, on both ways to enqueue it."""
    seen: list[Any] = []

    async def handler(_: Job[Any]) -> None:
        raise DeadLetter("no")

    async def after(job: Job[Any]) -> None:
        seen.append(job.payload)

    await create_queue(pool, "after")
    await set_queue_config(pool, "after", keyed=True, key_path="payload.tenant")
    keys = ring("k1")
    follow_up = FollowUp("after", {"tenant": "t-1", "card": CANARY}, run_id="r")
    async with QueueService[Any](pool, "jobs", encryption=keys) as service:
        await service.enqueue({}, on_dead_letter=follow_up)
    with psycopg.connect(database_url) as own:
        SyncQueueService(own, "jobs", encryption=keys).enqueue({}, on_dead_letter=follow_up)
    async with working(database_url, handler, encryption=keys):
        sql = "select message #>> '{payload,tenant}' from pgmq.q_after order by msg_id"

        async def both() -> bool:
            return len(await connection.fetch(sql)) == 2

        await eventually(both)
        assert [row[0] for row in await connection.fetch(sql)] == ["t-1", "t-1"]
    async with working(database_url, after, queue_name="after", encryption=keys):
        await eventually(lambda: len(seen) == 2)
    assert seen == [{"tenant": "t-1", "card": CANARY}] * 2


async def test_a_follow_up_that_is_too_large_once_encrypted_is_refused(pool: Pool) -> None:
    """The error says what the header would be."""
    follow_up = FollowUp("jobs", "x" * 60_000)
    async with QueueService[Any](pool, "jobs", encryption=ring("k1")) as service:
        with pytest.raises((InvalidJobError, JobTooLargeError), match="bytes"):
            await service.enqueue({}, on_dead_letter=follow_up)
