"""Rotation of encryption keys: nothing is lost, and nothing keeps an old key."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
import pytest

from meshhook import (
    DLQService,
    FollowUp,
    InvalidSettingError,
    Job,
    KeyRing,
    QueueService,
    acting_as,
    add_schedule,
    count_key_uses,
    create_queue,
    list_audit_entries,
    rotate_encryption,
    run_schedule,
    set_queue_config,
)
from meshhook.encryption.key_file import add_key, use_key
from meshhook.errors import EncryptionKeysUnavailableError
from support.command_line import run_command
from support.waiting import eventually
from support.workers import make_worker

if TYPE_CHECKING:
    from pathlib import Path

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

FIRST, SECOND = bytes(range(32)), bytes(range(32, 64))
OLD = KeyRing({"k1": FIRST})
NEW = KeyRing({"k2": SECOND, "k1": FIRST})
ONLY_NEW = KeyRing({"k2": SECOND})


async def uses(pool: Pool) -> dict[tuple[str, str | None], int]:
    """Return how many messages of the queue use each key."""
    return {(use.place, use.key_id): use.messages for use in await count_key_uses(pool, "jobs")}


async def fill(pool: Pool, connection: Connection) -> None:
    """Put encrypted messages everywhere."""
    async with QueueService[Any](pool, "jobs", encryption=OLD) as service:
        await service.enqueue_many(
            [{"run_id": f"r{i}", "n": i} for i in range(3)],
            group="g",
            on_complete=FollowUp("jobs", {"all": 1}),
        )
        await service.enqueue_many([{"n": i} for i in range(3, 7)])
        for settle in ("bury", "archive"):
            job = await service.dequeue()
            assert job is not None
            if settle == "bury":
                await DLQService(pool, "jobs").move_to_dead_letter(job, "no")
            else:
                await service.archive_job(job)
    await add_schedule(pool, "jobs", "nightly", every=3600, payload={"n": 9}, encryption=OLD)
    await connection.execute("""select pgmq.send('jobs', '{"plain": true}'::jsonb)""")


@pytest.mark.usefixtures("queue_name")
async def test_everything_is_encrypted_anew(pool: Pool, connection: Connection) -> None:
    """Where it was asked for; then the old key can go, and all can still be read."""
    await fill(pool, connection)
    assert await uses(pool) == {
        ("queue", "k1"): 5,
        ("queue", None): 1,
        ("dead_letters", "k1"): 1,
        ("archive", "k1"): 1,
        ("schedules", "k1"): 1,
        ("groups", "k1"): 1,
    }
    done = await rotate_encryption(pool, "jobs", NEW)
    assert done.encrypted == {"dead_letters": 1, "schedules": 1, "groups": 1}
    assert done.is_complete
    done = await rotate_encryption(pool, "jobs", NEW, waiting=True, archive=True, plain=True)
    assert done.encrypted == {"queue": 6, "archive": 1}
    assert {key_id for _, key_id in await uses(pool)} == {"k2"}
    assert not (await rotate_encryption(pool, "jobs", NEW, waiting=True)).encrypted.total()
    [dead] = await DLQService(pool, "jobs").list_dead_letter_jobs()
    await DLQService(pool, "jobs").replay_dead_letter_job(dead.id)
    await run_schedule(pool, "jobs", "nightly")
    payloads = []
    async with QueueService[Any](pool, "jobs", encryption=ONLY_NEW) as service:
        while (job := await service.dequeue()) is not None:
            payloads.append(job.payload)
            await service.acknowledge(job)
    assert sorted(each.get("n", -1) for each in payloads) == [-1, -1, 0, 2, 3, 4, 5, 6, 9]


async def finish(url: str, pool: Pool, number: int) -> None:
    """Enqueue jobs and run them; their bodies and results are kept."""
    await set_queue_config(pool, "jobs", keep_bodies_days=1, results=True)
    async with QueueService[Any](pool, "jobs", encryption=OLD) as service:
        await service.enqueue_many([{"n": n} for n in range(number)])

    async def handler(job: Job[Any]) -> dict[str, Any]:
        return {"result": job.payload["n"]}

    async with make_worker(url, handler, encryption=OLD) as worker:
        await eventually(lambda: worker.get_stats().succeeded == number)


async def test_kept_bodies_and_results_are_encrypted_anew(
    database_url: str, pool: Pool, queue_name: str
) -> None:
    """In chunks, each with its row of the audit log; afterwards they need the new key only."""
    await finish(database_url, pool, 5)
    assert await uses(pool) == {("finished_jobs", "k1"): 5, ("results", "k1"): 5}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("meshhook.store.message_places.CHUNK_MESSAGES", 2)
        patched.setattr("meshhook.store.message_places.PAGE_MESSAGES", 3)
        with acting_as("anna", source="cli"):
            done = await rotate_encryption(pool, queue_name, NEW, results=True)
    assert done.encrypted == Counter(finished_jobs=5, results=5)
    assert await uses(pool) == {("finished_jobs", "k2"): 5, ("results", "k2"): 5}
    written = await list_audit_entries(pool, queue_name, action="encryption")
    assert [each.count for each in written] == [1, 2, 2, 1, 2, 2]
    assert {each.action for each in written} == {"encryption.rotated"}
    assert {(each.actor, each.source) for each in written} == {("anna", "cli")}
    [operation] = {each.operation for each in written}
    assert operation is not None
    assert written[0].filter == {"place": "results", "key_id": "k2"}
    async with QueueService[Any](pool, queue_name, encryption=ONLY_NEW) as service:
        [job_id, *_] = await pool.fetch("select msg_id from meshhook.finished_jobs order by 1")
        end = await service.wait(job_id["msg_id"], timeout_seconds=60)
        assert end.result == {"result": 0}
        await service.replay_jobs([job_id["msg_id"]])
        job = await service.dequeue()
        assert job is not None
        assert job.payload == {"n": 0}


async def test_a_rotation_that_was_stopped_goes_on(
    database_url: str, pool: Pool, queue_name: str
) -> None:
    """What was encrypted anew stays so, and only the rest is touched by the next."""
    await finish(database_url, pool, 5)

    def stop(done: int) -> None:
        if done >= 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("meshhook.store.message_places.CHUNK_MESSAGES", 2)
        with pytest.raises(KeyboardInterrupt):
            await rotate_encryption(pool, queue_name, NEW, on_progress=stop)
    assert (await uses(pool))["finished_jobs", "k1"] == 3
    assert (await rotate_encryption(pool, queue_name, NEW)).encrypted.total() == 3


@pytest.mark.usefixtures("queue_name")
async def test_what_follows_dead_letters_is_encrypted_anew(pool: Pool) -> None:
    """It stands in headers, wherever the job is, and is counted apart."""
    await create_queue(pool, "after")
    follow_up = FollowUp("after", {"card": 1})
    async with QueueService[Any](pool, "jobs", encryption=OLD) as service:
        for settle in ("bury", "archive", "leave"):
            await service.enqueue({"run_id": "r", "n": settle}, on_dead_letter=follow_up)
            if settle == "leave":
                continue
            job = await service.dequeue()
            assert job is not None
            if settle == "archive":
                await service.archive_job(job)
            else:
                await DLQService(pool, "jobs").move_to_dead_letter(job, "no")
    await QueueService[Any](pool, "jobs").enqueue({"run_id": "p"}, on_dead_letter=follow_up)
    header = {"meshhook-on-dead-letter": {"queue": "after", "message": {"card": 2}}}
    await add_schedule(
        pool, "jobs", "nightly", every=3600, headers=header, payload={}, encryption=OLD
    )
    assert not await add_schedule(
        pool, "jobs", "nightly", every=3600, headers=header, payload={}, encryption=OLD
    )
    found = await uses(pool)
    assert (found["follow_ups", "k1"], found["follow_ups", None]) == (4, 1)
    await rotate_encryption(pool, "jobs", NEW, waiting=True, archive=True, plain=True)
    found = await uses(pool)
    assert {key_id for _, key_id in found} == {"k2"}
    assert found["follow_ups", "k2"] == 5
    await rotate_encryption(pool, "after", NEW, waiting=True)
    await run_schedule(pool, "jobs", "nightly")
    cards = []
    async with (
        QueueService[Any](pool, "jobs", encryption=ONLY_NEW) as service,
        QueueService[Any](pool, "after", encryption=ONLY_NEW) as after,
    ):
        while (job := await service.dequeue()) is not None:
            await DLQService(pool, "jobs").move_to_dead_letter(job, "no")
        while (followed := await after.dequeue()) is not None:
            cards.append((followed.payload["card"], followed.run_id, followed.is_encrypted))
            await after.acknowledge(followed)
    # One had its follow-up before the rotation.
    assert Counter(cards) == {(1, "r", True): 2, (1, "p", True): 1, (2, None, True): 1}


@pytest.mark.usefixtures("queue_name")
async def test_what_is_locked_or_unreadable_is_left_and_said(
    pool: Pool, connection: Connection
) -> None:
    """The rest is done, and a second run finds what was locked."""
    other = KeyRing({"k9": bytes(32)})
    for keys in (OLD, OLD, other):
        async with QueueService[Any](pool, "jobs", encryption=keys) as service:
            await service.enqueue({})
    async with connection.transaction():
        await connection.execute("select from pgmq.q_jobs where msg_id = 1 for update")
        done = await rotate_encryption(pool, "jobs", NEW, waiting=True)
    assert (done.encrypted["queue"], done.locked) == (1, 1)
    [reason] = done.refused
    assert "key 'k9'" in reason
    done = await rotate_encryption(pool, "jobs", NEW, waiting=True)
    assert (done.encrypted["queue"], done.locked) == (1, 0)
    assert await uses(pool) == {("queue", "k2"): 2, ("queue", "k9"): 1}


@pytest.mark.usefixtures("queue_name")
async def test_a_message_that_cannot_be_encrypted_keeps_no_other_from_its_turn(
    pool: Pool, connection: Connection
) -> None:
    """A key that is an object, a number that Python does not read: each is said, and stays."""
    await set_queue_config(pool, "jobs", keyed=True, key_path="tenant")
    for body in ('{"tenant": {}}', '{"tenant": "a", "n": 1}', '{"n": ' + "7" * 5_000 + "}"):
        await connection.execute("select pgmq.send('jobs', $1::jsonb)", body)
    done = await rotate_encryption(pool, "jobs", NEW, waiting=True, plain=True)
    assert done.encrypted["queue"] == 1
    assert not done.is_complete
    assert {
        reason: count for reason, count in done.refused.items() if "is an object" in reason
    } == {
        "it cannot be encrypted: the key of the job, at tenant, is an object or a list; the key "
        "of an encrypted job stays readable, and is a text, a number or true or false": 1
    }
    assert done.refused.total() == 2
    assert await uses(pool) == {("queue", "k2"): 1, ("queue", None): 2}


@pytest.mark.usefixtures("queue_name")
async def test_a_rotation_under_load_loses_nothing(database_url: str, pool: Pool) -> None:
    """Producers and workers change keys while messages are encrypted anew beneath them."""
    given = {"k1": FIRST}
    shared = KeyRing.from_function(lambda: dict(given))
    shared._source.unknown_check_seconds = 0
    seen: list[int] = []

    async def handler(job: Job[Any]) -> None:
        seen.append(job.payload)
        if job.attempt == 1 and job.payload % 3 == 0:
            raise ValueError

    await set_queue_config(
        pool, "jobs", retry_backoff_base_ms=0, retry_backoff_max_ms=0, max_retry_attempts=10
    )
    sent = 0
    stop = asyncio.Event()

    async def produce() -> None:
        nonlocal sent
        async with QueueService[Any](pool, "jobs", encryption=shared) as service:
            while not stop.is_set():
                await service.enqueue_many(range(sent, sent + 20))
                sent += 20
                await asyncio.sleep(0)

    async with make_worker(database_url, handler, encryption=shared):
        producing = asyncio.create_task(produce())
        await eventually(lambda: len(seen) > 50)
        given.clear()
        given.update({"k2": SECOND, "k1": FIRST})
        shared._check_at = 0
        await eventually(lambda: shared.key_ids[0] == "k2" or shared.prepare())
        for _ in range(5):
            await rotate_encryption(pool, "jobs", NEW, waiting=True)
        stop.set()
        await producing

        async def is_empty() -> bool:
            return not await pool.fetchval("select count(*) from pgmq.q_jobs")

        await eventually(is_empty, 200)
    assert set(seen) == set(range(sent))
    assert not await pool.fetchval("select count(*) from pgmq.q_jobs_dlq")


def test_a_key_file_is_made_and_changed(tmp_path: Path) -> None:
    """It is private from the start; the first key stays until another is chosen."""
    path = tmp_path / "keys"
    assert add_key(path, "k1") == ["k1"]
    assert path.stat().st_mode & 0o777 == 0o600
    first = path.read_text()
    assert add_key(path, "k2") == ["k1", "k2"]
    assert path.read_text().startswith(first)
    assert use_key(path, "k2") == ["k2", "k1"]
    assert path.read_text().endswith(first)
    with pytest.raises(InvalidSettingError, match="two encryption keys have the id 'k1'"):
        add_key(path, "k1")
    with pytest.raises(InvalidSettingError, match="has no key 'k9'; it has: k2, k1"):
        use_key(path, "k9")
    with pytest.raises(EncryptionKeysUnavailableError, match="cannot be written"):
        add_key(tmp_path / "none" / "keys", "k1")
    assert [each.name for each in tmp_path.iterdir()] == ["keys"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has files of others")
def test_a_key_file_keeps_its_owner(tmp_path: Path) -> None:
    """An administrator adds a key to the file of the workers, who can still read it."""
    path = tmp_path / "keys"
    add_key(path, "k1")
    os.chown(path, 4711, 4712)
    path.chmod(0o400)
    add_key(path, "k2")
    use_key(path, "k2")
    found = path.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (4711, 4712, 0o400)


@pytest.mark.usefixtures("queue_name")
def test_the_command_rotates_keys_step_by_step(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the guide has it: no key is printed, and a key in use is not to be dropped."""
    path = tmp_path / "keys"
    monkeypatch.setenv("MESHHOOK_DATABASE_URL", database_url)
    monkeypatch.setenv("MESHHOOK_ENCRYPTION_KEY_FILE", str(path))
    printed = []

    def call(*arguments: str, code: int = 0) -> str:
        done = run_command(list(arguments))
        assert done.code == code, done
        printed.append(done.out + done.err)
        return printed[-1]

    call("encryption", "new-key", str(path), "--id", "k1")
    call("enqueue", "jobs", '{"run_id": "r", "card": "4111"}')
    plain = call("jobs", "show", "jobs", "1")
    assert "encrypted with key k1; --decrypt shows it" in plain
    assert "4111" not in plain
    assert "4111" in call("jobs", "show", "jobs", "1", "--decrypt")
    call("encryption", "new-key", str(path), "--id", "k2")
    call("encryption", "use-key", str(path), "k2")
    status = call("encryption", "status", "jobs", "--key", "k1", code=1)
    assert "1 message of queue jobs would be lost with key k1" in status
    assert "k1" in call("encryption", "rotate", "jobs", "--dry-run")
    done = call("encryption", "rotate", "jobs", "--waiting", "--json")
    assert json.loads(done)["encrypted"]["queue"] == 1
    assert "no message of queue jobs uses key k1" in call(
        "encryption", "status", "jobs", "--key", "k1"
    )
    monkeypatch.delenv("MESHHOOK_ENCRYPTION_KEY_FILE")
    assert "needs the encryption keys" in call("encryption", "rotate", "jobs", code=2)
    for line in path.read_text().split():
        assert line.partition(":")[2] not in "".join(printed)
