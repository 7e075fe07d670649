"""Queue names: what PGMQ and the dead letter queue beside it can carry, and nothing else."""

from __future__ import annotations

import string
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshhook import DLQService, QueueService, Worker
from meshhook.administration import (
    create_queue,
    drop_queue,
    get_queue_config,
    get_queue_snapshot,
    set_queue_config,
)
from meshhook.errors import InvalidQueueNameError
from meshhook.names import (
    CONFIG_CHANNEL,
    MAX_QUEUE_NAME_LENGTH,
    dead_letter_queue_name,
    validate_queue_name,
    wake_channel,
)
from meshhook.postgres.database import Database
from meshhook.store import queries

INVALID_NAMES: list[tuple[Any, str]] = [
    ("", "must not be empty"),
    ("a" * 44, "has 44 characters, at most 43"),
    ("a" * 47, "has 47 characters"),
    ("a" * 48, "has 48 characters"),
    ("a" * 63, "has 63 characters"),
    ("Foo", "use 'foo'"),
    ("STRASSE", "lower case"),
    ("naïve", "may hold only"),
    ("作业", "may hold only"),
    ("k\N{KELVIN SIGN}", "lower case"),
    ("jobs\N{ARABIC-INDIC DIGIT ONE}", "may hold only"),
    ("_jobs", "must start with"),
    ("-jobs", "must start with"),
    ("my jobs", "may hold only"),
    ("jobs\n", "may hold only"),
    ("jobs\x00", "may hold only"),
    ("a.b", "may hold only"),
    ('jobs"; drop table x; --', "may hold only"),
    ("jobs'", "may hold only"),
    ("{queue_table}", "may hold only"),
    ("jobs_dlq", "name the queue itself: 'jobs'"),
    ("_dlq", "must start with"),
    (None, "must be a string, not NoneType"),
    (7, "must be a string, not int"),
    (b"jobs", "must be a string, not bytes"),
]

NAME_CHARACTERS = string.ascii_lowercase + string.digits + "_-"


@pytest.mark.parametrize("name", ["a", "0", "jobs", "a-b_c", "dlq", "a_dlq_b", "a" * 43])
def test_a_valid_name_is_returned(name: str) -> None:
    """A name is 1 to 43 characters of a-z, 0-9, _ and -."""
    assert validate_queue_name(name) == name


@pytest.mark.parametrize(("name", "reason"), INVALID_NAMES, ids=ascii)
def test_an_invalid_name_says_which_rule_it_breaks(name: Any, reason: str) -> None:
    """The error names the value received and the rule it breaks."""
    with pytest.raises(InvalidQueueNameError) as caught:
        validate_queue_name(name)
    assert reason in str(caught.value)
    assert repr(name) in str(caught.value)
    assert caught.value.name is name


@given(st.text())
def test_any_text_is_a_name_or_an_error(text: str) -> None:
    """Every accepted name is safe in SQL and short enough with its suffix."""
    try:
        name = validate_queue_name(text)
    except InvalidQueueNameError:
        return
    assert set(name) <= set(NAME_CHARACTERS)
    assert name == name.lower()
    assert len(dead_letter_queue_name(name)) <= 47


@given(st.text(NAME_CHARACTERS, min_size=1, max_size=MAX_QUEUE_NAME_LENGTH))
def test_channels_fit_postgresql(text: str) -> None:
    """The channel of the longest name fits into PostgreSQL's 63 bytes."""
    assert len(wake_channel(text).encode()) <= 63
    assert wake_channel(text) != CONFIG_CHANNEL


@pytest.mark.parametrize(("name", "_reason"), INVALID_NAMES, ids=ascii)
async def test_every_way_in_refuses_it_before_the_database(name: Any, _reason: str) -> None:
    """No function of the library passes an invalid name on to the database."""

    class Untouchable:
        async def fetch(self, *_: object) -> None:
            raise AssertionError

    database = Database(Untouchable())
    for function in (create_queue, drop_queue, get_queue_config, get_queue_snapshot):
        with pytest.raises(InvalidQueueNameError):
            await function(database, name)
    with pytest.raises(InvalidQueueNameError):
        await set_queue_config(database, name, paused=True)
    for service in (QueueService, DLQService):
        with pytest.raises(InvalidQueueNameError):
            service(database, name)
    with pytest.raises(InvalidQueueNameError):
        Worker("postgresql://nobody@127.0.0.1:1/none", name, print)
    with pytest.raises(InvalidQueueNameError):
        queries.load("claim", queries.QueueTables(name))
    with pytest.raises(InvalidQueueNameError):
        queries.load("replay_dead_letters", "jobs", target=name or "")


@pytest.mark.parametrize(
    "name", [name for name, _ in INVALID_NAMES if isinstance(name, str) and "\x00" not in name]
)
async def test_the_database_refuses_it_too(
    connection: asyncpg.Connection[asyncpg.Record], name: str
) -> None:
    """A direct call of the SQL function meets the same rules."""
    with pytest.raises(asyncpg.InvalidNameError, match="1 to 43 characters"):
        await connection.execute("select meshhook.create_queue($1)", name)


async def test_the_longest_name_works(pool: asyncpg.Pool[asyncpg.Record]) -> None:
    """A queue named with 43 characters takes jobs and dead letters, and can be dropped."""
    name = "a" * 43
    database = Database(pool)
    assert await create_queue(database, name)
    service = QueueService[Any](pool, name)
    await service.enqueue({"n": 1})
    job = await service.dequeue()
    assert job is not None
    letters = DLQService(pool, name)
    await letters.move_to_dead_letter(job, "broken")
    (letter,) = await letters.list_dead_letter_jobs()
    assert letter.msg_id == job.msg_id
    assert await drop_queue(database, name)
