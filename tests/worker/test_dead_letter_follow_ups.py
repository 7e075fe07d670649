"""Jobs that follow dead letters: however a job becomes one, exactly one job follows."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import (
    App,
    DLQService,
    FailedJob,
    FollowUp,
    Job,
    QueueService,
    create_job_handler,
    create_queue,
    drop_queue,
    get_queue_config,
    set_queue_config,
)
from meshhook.errors import InvalidJobError, InvalidSettingError
from support.waiting import eventually
from support.workers import live, make_worker, outcomes

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

pytestmark = pytest.mark.usefixtures("followed")


@pytest.fixture
async def followed(connection: Connection, queue_name: str) -> None:
    """Queue `jobs`, whose dead letters are followed in queue `next`."""
    await create_queue(connection, "next")
    await set_queue_config(
        connection, queue_name, dead_letter_follow_up="next", max_retry_attempts=1
    )


async def failing(_: Job[Any]) -> None:
    """Fail."""
    raise ValueError("no luck")


async def following(connection: Connection, queue: str = "next") -> list[tuple[Any, Any]]:
    """Return body and headers of the messages of a queue, in order."""
    rows = await connection.fetch(f"select message, headers from pgmq.q_{queue} order by msg_id")
    return [(json.loads(row["message"]), json.loads(row["headers"])) for row in rows]


async def work(url: str, handler: Any, count: int = 1, **options: Any) -> None:
    """Run a worker until it has recorded `count` outcomes."""
    async with make_worker(url, handler, **options) as worker:
        await eventually(lambda: worker.get_stats().processed >= count)


async def test_a_failure_for_good_is_followed(
    pool: Pool, connection: Connection, database_url: str
) -> None:
    """The job that follows tells which job failed and why, and has its identifiers."""
    job = {"run_id": "r", "project_id": "p", "payload": {}}
    msg_id = await QueueService[Any](pool, "jobs").enqueue(job)
    await work(database_url, failing)
    [letter] = await DLQService(pool, "jobs").list_dead_letter_jobs()
    details: dict[str, Any] = {
        "queue": "jobs",
        "msg_id": msg_id,
        "dead_letter_id": letter.id,
        "error_type": "ValueError",
        "error_message": "no luck",
        "attempts": 1,
    }
    assert await following(connection) == [
        (
            {"run_id": "r", "project_id": "p", "payload": details},
            {"meshhook-failed-job": details | {"depth": 1}},
        )
    ]
    seen: list[Job[Any]] = []

    async def handler(job: Job[Any]) -> None:
        seen.append(job)

    await work(database_url, handler, queue_name="next")
    assert seen[0].failed_job == FailedJob(**details)
    assert seen[0].payload == details


async def test_only_dead_letters_are_followed(
    pool: Pool, connection: Connection, database_url: str
) -> None:
    """Not what succeeds or is retried, beside one that fails in the same batch."""
    await set_queue_config(
        connection,
        "jobs",
        max_retry_attempts=2,
        retry_backoff_base_ms=600_000,
        retry_backoff_max_ms=600_000,
    )
    await QueueService[Any](pool, "jobs").enqueue_many([0, 1, 2])

    async def handler(job: Job[Any]) -> None:
        if job.payload == 1:
            raise ValueError("again")

    await work(database_url, handler, 3)
    assert await following(connection) == []


async def test_dead_letters_of_a_batch_are_followed(
    pool: Pool, connection: Connection, database_url: str
) -> None:
    """Each of those that failed has a job that follows it; one that has expired did not run."""
    service = QueueService[Any](pool, "jobs")
    await service.enqueue_many([{}, {}])
    await service.enqueue({}, expires_at=datetime(2020, 1, 1, tzinfo=UTC))
    sizes: list[int] = []

    async def handle(jobs: list[Job[Any]]) -> None:
        sizes.append(len(jobs))
        raise ValueError("all of them")

    await work(database_url, create_job_handler(handle, batch=10), 3)
    assert sum(sizes) == 2
    found = [headers["meshhook-failed-job"] for _, headers in await following(connection)]
    assert [each["error_message"] for each in found] == ["all of them"] * 2


async def test_a_lost_job_is_followed(connection: Connection, database_url: str) -> None:
    """A job whose last attempts ended without an outcome is a dead letter like others."""
    await QueueService[Any](connection, "jobs").enqueue({})
    await connection.execute(
        """update pgmq.q_jobs set read_ct = 1, vt = now() - interval '1 second',
        headers = '{"meshhook-claim": {"read_ct": 1, "attempt": 1, "lost": 0}}'"""
    )
    await work(database_url, failing)
    [(_, headers)] = await following(connection)
    assert headers["meshhook-failed-job"]["error_type"] == "LeaseLost"


async def test_an_unreadable_message_is_followed(connection: Connection, database_url: str) -> None:
    """One that is larger than the worker reads."""
    await connection.execute("select pgmq.send('jobs', to_jsonb(repeat('x', 100000)))")
    await work(database_url, failing, max_message_bytes=1_024)
    [(_, headers)] = await following(connection)
    assert headers["meshhook-failed-job"]["queue"] == "jobs"


async def test_a_job_that_is_moved_by_hand_is_followed(connection: Connection) -> None:
    """`move_to_dead_letter`, and what `dequeue` does not return."""
    service = QueueService[Any](connection, "jobs")
    await service.enqueue({})
    job = await service.dequeue()
    assert job is not None
    await DLQService(connection, "jobs").move_to_dead_letter(job, "by hand")
    [(_, headers)] = await following(connection)
    assert headers["meshhook-failed-job"]["error_message"] == "by hand"
    await set_queue_config(connection, "jobs", on_expiry="dead_letter", job_expiry_seconds=0.001)
    await QueueService[Any](connection, "jobs").enqueue({})
    assert await QueueService[Any](connection, "jobs").dequeue() is None
    [_, (_, headers)] = await following(connection)
    assert headers["meshhook-failed-job"]["error_type"] == "JobExpired"


async def test_a_replay_that_fails_again_is_followed_again(
    pool: Pool, connection: Connection, database_url: str
) -> None:
    """Each dead letter has one job that follows it."""
    await QueueService[Any](pool, "jobs").enqueue({})
    await work(database_url, failing)
    dead = DLQService(pool, "jobs")
    await dead.replay_multiple_jobs([each.id for each in await dead.list_dead_letter_jobs()])
    await work(database_url, failing)
    ids = [
        headers["meshhook-failed-job"]["dead_letter_id"]
        for _, headers in await following(connection)
    ]
    assert len(set(ids)) == len(ids) == 2


async def test_a_job_has_a_follow_up_of_its_own(
    pool: Pool, connection: Connection, database_url: str
) -> None:
    """It counts before that of the queue, and goes where it says."""
    await create_queue(connection, "mails")
    follow_up = FollowUp("mails", {"text": "sorry"}, key="acme", headers={"a": 1})
    service = QueueService[Any](pool, "jobs")
    job = {"run_id": "r", "payload": 1}
    await service.enqueue(job, on_dead_letter=follow_up)
    await set_queue_config(connection, "jobs", dead_letter_follow_up=None)
    await service.enqueue({}, on_dead_letter=follow_up)
    await service.enqueue({})
    await work(database_url, failing, 3)
    assert await following(connection) == []
    found = sorted(await following(connection, "mails"), key=str)
    assert [message for message, _ in found] == [
        {"run_id": "r", "payload": {"text": "sorry"}},
        {"text": "sorry"},
    ]
    for _, headers in found:
        assert headers.pop("meshhook-failed-job")["queue"] == "jobs"
        assert headers == {"a": 1, "x-pgmq-group": "acme"}


async def test_queues_that_follow_each_other_come_to_an_end(
    pool: Pool, connection: Connection, database_url: str
) -> None:
    """After five dead letters in a row nothing follows."""
    await set_queue_config(connection, "next", dead_letter_follow_up="jobs", max_retry_attempts=1)
    await QueueService[Any](pool, "jobs").enqueue({})
    async with make_worker(database_url, failing, queue_name=["jobs", "next"]) as worker:
        await eventually(lambda: worker.get_stats().processed >= 6)
    assert await live(connection) == {}
    assert await following(connection) == []
    rows = await connection.fetch("select queue from meshhook.job_attempts order by finished_at")
    assert [row["queue"] for row in rows] == ["jobs", "next"] * 3


@pytest.mark.parametrize("refusal", ["dropped", "constraint", "foreign header"])
async def test_a_follow_up_that_is_refused_keeps_no_job_from_its_end(
    pool: Pool, connection: Connection, database_url: str, refusal: str
) -> None:
    """The dead letter is there, and its neighbours, too."""
    if refusal == "dropped":
        await drop_queue(connection, "next")
    elif refusal == "constraint":
        await connection.execute("alter table pgmq.q_next add check (message is null)")
    service = QueueService[Any](pool, "jobs")
    msg_id = await service.enqueue({})
    if refusal == "foreign header":
        await connection.execute(
            'update pgmq.q_jobs set headers = \'{"meshhook-on-dead-letter": {"queue": 5}}\''
        )
    await work(database_url, failing)
    assert await outcomes(connection, msg_id) == [("dead_lettered", 1)]
    assert await connection.fetchval("select count(*) from pgmq.q_jobs_dlq") == 1


@pytest.mark.parametrize("own", [{"queue": 5}, None, "next", {"queue": "mails"}])
async def test_an_own_follow_up_that_is_nonsense_leaves_that_of_the_queue(
    pool: Pool, connection: Connection, database_url: str, own: Any
) -> None:
    """Another client may write anything; without one of the queue, nothing follows."""
    await create_queue(connection, "other")
    await set_queue_config(connection, "other", max_retry_attempts=1)
    for queue in ("jobs", "other"):
        await QueueService[Any](pool, queue).enqueue({})
        await connection.execute(
            f"update pgmq.q_{queue} set headers = $1",
            json.dumps({"meshhook-on-dead-letter": own}),
        )
    async with make_worker(database_url, failing, queue_name=["jobs", "other"]) as worker:
        await eventually(lambda: worker.get_stats().processed >= 2)
    [(message, headers)] = await following(connection)
    assert message["payload"]["queue"] == headers["meshhook-failed-job"]["queue"] == "jobs"
    assert await connection.fetchval("select count(*) from pgmq.q_other_dlq") == 1


async def test_a_settlement_that_fails_leaves_no_follow_up(
    pool: Pool, connection: Connection, database_url: str
) -> None:
    """The dead letter and what follows it are stored together, or neither is: then once."""
    await connection.execute(
        """create sequence tries;
        create function fail_once() returns trigger language plpgsql as $$
        begin
            if nextval('public.tries') = 1 then
                raise exception using errcode = '40P01', message = 'a deadlock, once';
            end if;
            return new;
        end $$;
        create trigger fail_once before insert on pgmq.q_next
            for each row execute function fail_once()"""
    )
    msg_id = await QueueService[Any](pool, "jobs").enqueue({})
    await work(database_url, failing)
    assert await outcomes(connection, msg_id) == [("dead_lettered", 1)]
    assert len(await following(connection)) == 1
    assert await connection.fetchval("select last_value from tries") == 2


async def test_a_queue_that_cannot_follow_is_refused(connection: Connection) -> None:
    """The queue itself, one that is not there, and what is no name."""
    for wrong in ("jobs", "nowhere", "Jobs", "jobs_dlq", ""):
        with pytest.raises(InvalidSettingError, match="dead_letter_follow_up="):
            await set_queue_config(connection, "jobs", dead_letter_follow_up=wrong)
    await create_queue(connection, "sealed")
    await set_queue_config(connection, "sealed", encryption="require")
    with pytest.raises(InvalidSettingError, match=r"dead_letter_follow_up=.* cannot encrypt"):
        await set_queue_config(connection, "jobs", dead_letter_follow_up="sealed")
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute(
            "update meshhook.queue_config set dead_letter_follow_up = queue_name"
        )


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        {"queue": "next"},
        {"queue": "No", "message": 1},
        {"queue": "next", "message": 1, "more": 1},
        {"queue": "next", "message": 1, "key": ""},
        {"queue": "next", "message": 1, "delay_seconds": -1},
        {"queue": "next", "message": 1, "headers": {"meshhook-group": "g"}},
        {"queue": "next", "message": 1, "headers": []},
    ],
)
async def test_a_wrong_follow_up_is_refused_by_the_library_and_by_sql(
    connection: Connection, wrong: Any
) -> None:
    """Both name the header, and store nothing."""
    headers = {"meshhook-on-dead-letter": wrong}
    with pytest.raises(InvalidJobError, match="meshhook-on-dead-letter"):
        await QueueService[Any](connection, "jobs").enqueue({}, headers=headers)
    with pytest.raises(asyncpg.PostgresError, match="meshhook-on-dead-letter"):
        await connection.execute(
            "select meshhook.enqueue('jobs', '{}', headers => $1)", json.dumps(headers)
        )
    assert await live(connection) == {}


async def test_an_app_declares_what_follows(connection: Connection, database_url: str) -> None:
    """The app creates both queues, in whatever order they are declared."""
    app = App(database_url)
    told: list[dict[str, Any]] = []

    @app.on_dead_letter("orders")
    async def tell(failed: dict[str, Any]) -> None:
        told.append(failed)

    @app.job("orders", max_retry_attempts=1)
    async def ship(order: dict[str, Any]) -> None:
        raise ValueError(order["n"])

    with pytest.raises(InvalidSettingError, match="already"):
        app.on_dead_letter("orders", queue="others")
    with pytest.raises(InvalidSettingError, match="never end"):
        app.on_dead_letter("orders", queue="orders")
    async with app:
        await ship.enqueue({"n": 7})
        async with app.workers():
            await eventually(lambda: bool(told))
    assert (told[0]["queue"], told[0]["error_message"]) == ("orders", "7")
    config = await get_queue_config(connection, "orders")
    assert config.dead_letter_follow_up == "orders_failed"
