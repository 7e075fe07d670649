"""The queue of the demo: its own, and nobody else's."""

import pytest

from meshhook import administration
from meshhook.demo import scenario
from meshhook.demo.processes import DemoError
from meshhook.demo.stage import demo_queue
from meshhook.postgres.database import Database
from meshhook.queues import QueueService

QUEUE = "workflow_jobs"


@pytest.fixture
def database(pool):
    """The database as the library sees it."""
    return Database(pool)


@pytest.fixture
def queue(pool):
    """The queue of the demo."""
    return QueueService(pool, QUEUE)


async def test_the_queue_is_made_with_settings_that_suit_the_demo(database, database_url):
    """Short delays, so that it ends while one watches."""
    async with demo_queue(database_url, QUEUE):
        config = await administration.get_queue_config(database, QUEUE)

    assert config.model_dump().items() >= scenario.QUEUE_SETTINGS.items()


async def test_a_second_demo_starts_with_an_empty_queue(database, database_url, queue):
    """What is left of the demo before is dropped."""
    async with demo_queue(database_url, QUEUE):
        await queue.enqueue_many(scenario.deliveries(3, "http://127.0.0.1/"))

    async with demo_queue(database_url, QUEUE):
        assert (await queue.get_queue_metrics()).queue_length == 0


async def test_the_queue_stays_after_the_demo(database, database_url, queue):
    """Its dead letters are there to look at."""
    async with demo_queue(database_url, QUEUE):
        pass

    assert (await queue.get_queue_metrics()).queue_length == 0


async def test_a_queue_that_the_demo_did_not_make_is_left_alone(database, database_url, queue):
    """Also an empty one; the message says what to do."""
    await administration.create_queue(database, QUEUE)
    config = await administration.get_queue_config(database, QUEUE)

    with pytest.raises(DemoError, match=r"did not make it.*meshhook queue drop workflow_jobs"):
        async with demo_queue(database_url, QUEUE):
            pass

    assert await administration.get_queue_config(database, QUEUE) == config


async def test_a_plain_pgmq_queue_is_left_alone(database, database_url, connection):
    """One that MeshHook does not manage yet."""
    await connection.execute("select pgmq.create('workflow_jobs')")
    with pytest.raises(DemoError, match="did not make it"):
        async with demo_queue(database_url, QUEUE):
            pass


@pytest.mark.parametrize("table", ["q_workflow_jobs", "q_workflow_jobs_dlq", "a_workflow_jobs"])
async def test_other_jobs_in_the_queue_of_the_demo_are_kept(
    database, database_url, connection, table
):
    """A user may have gone on to use the queue; their jobs, dead or archived ones too, stay."""
    async with demo_queue(database_url, QUEUE):
        message = '{"run_id": "1", "payload": {}}'
        await connection.execute(
            f"insert into pgmq.{table} (msg_id, vt, message) overriding system value "
            "values (1, now(), $1)",
            message,
        )

    with pytest.raises(DemoError, match="holds jobs that are not the demo's"):
        async with demo_queue(database_url, QUEUE):
            pass

    assert await connection.fetchval(f"select count(*) from pgmq.{table}") == 1


async def test_two_demos_do_not_share_a_queue(database_url):
    """The second one says so and changes nothing."""
    async with demo_queue(database_url, QUEUE):
        with pytest.raises(DemoError, match="another demo is running"):
            async with demo_queue(database_url, QUEUE):
                pass

    async with demo_queue(database_url, QUEUE):
        pass
