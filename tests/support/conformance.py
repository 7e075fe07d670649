"""The cases of tests/conformance/enqueue.json: what each way to enqueue stores and refuses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import KeyRing, QueueService, SyncQueueService
from meshhook.administration import set_queue_config
from meshhook.encryption.messages import decrypted_body
from meshhook.unique import ServiceOptions

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

FILE = Path(__file__).parents[1] / "conformance" / "enqueue.json"
_DOCUMENT = json.loads(FILE.read_text("utf-8"))
QUEUE: str = _DOCUMENT["queue"]["name"]
KEYS = KeyRing({"k2": bytes(range(32)), "k1": bytes(32)})
"""The keys of the producers that have some: the first one encrypts."""
_SLACK_SECONDS = 60
"""How much later than its delay says a job may be ready: the machine may be slow."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case."""

    fields: dict[str, Any]

    @property
    def queue(self) -> Any:
        """The queue that is named."""
        return self.fields.get("queue", QUEUE)

    @property
    def is_several(self) -> bool:
        """Whether it is about `enqueue_many`."""
        return "messages" in self.fields

    @property
    def messages(self) -> list[Any]:
        """The messages; a single one is a list of one."""
        given = self.fields["messages"] if self.is_several else [self.fields.get("message")]
        return [_written_out(each) for each in given]

    @property
    def headers(self) -> Any:
        """The headers; None if the case has none."""
        return _written_out(self.fields.get("headers"))

    @property
    def key(self) -> str | None:
        """The key; None if the case has none."""
        found: str | None = _written_out(self.fields.get("key"))
        return found

    @property
    def unique_keys(self) -> list[str] | None:
        """The unique key of each message; None if the case has none."""
        given = self.fields.get("unique_keys")
        if "unique_key" in self.fields:
            given = [self.fields["unique_key"]]
        found: list[str] | None = _written_out(given)
        return found

    @property
    def unique(self) -> dict[str, Any]:
        """What the library is told of unique keys beside the keys themselves."""
        until, seconds = self.fields.get("unique_until"), self.fields.get("unique_for_seconds")
        given = {
            "unique": f"until_{until}" if until else seconds and timedelta(seconds=seconds),
            "on_conflict": self.fields.get("on_conflict"),
        }
        return {name: value for name, value in given.items() if value is not None}

    @property
    def unique_in_sql(self) -> tuple[Any, ...]:
        """The arguments `unique_until`, seconds of `unique_for`, and `on_conflict` in SQL."""
        fields = self.fields
        return (
            fields.get("unique_until"),
            fields.get("unique_for_seconds"),
            fields.get("on_conflict"),
        )

    @property
    def ring(self) -> KeyRing | None:
        """The keys of the producer; None if it has none."""
        return KEYS if self.fields.get("has_keys") else None

    @property
    def delay_seconds(self) -> float:
        """The delay."""
        return float(self.fields.get("delay_seconds", 0))

    @property
    def error(self) -> dict[str, Any] | None:
        """What the error is; None if the jobs are stored."""
        found: dict[str, Any] | None = self.fields.get("error")
        return found

    @property
    def stored(self) -> list[dict[str, Any]]:
        """What is stored, in order."""
        found = self.fields.get("stored_many", [self.fields.get("stored")])
        return [] if self.error else [_written_out(each) for each in found]


def cases(way: str) -> list[Any]:
    """Return the cases for a way to enqueue (`sql` or `library`), as parameters of a test."""
    return [
        pytest.param(Case(fields), id=fields["name"].replace(" ", "_"))
        for fields in _DOCUMENT["cases"]
        if fields.get("only", way) == way
    ]


def cases_with_unique_keys() -> list[Case]:
    """Return the cases that are about unique keys, for every way to enqueue."""
    found = [Case(fields) for fields in _DOCUMENT["cases"]]
    return [case for case in found if case.unique_keys is not None and "only" not in case.fields]


async def prepare(connection: Connection, case: Case) -> None:
    """Create the queue, or empty it, with the settings of a case."""
    await connection.execute("select meshhook.create_queue($1)", QUEUE)
    await connection.execute(f"delete from pgmq.q_{QUEUE}")
    await connection.execute("delete from meshhook.unique_keys")
    limit = case.fields.get("max_payload_bytes", _DOCUMENT["queue"]["max_payload_bytes"])
    await connection.execute(
        "update meshhook.queue_config set max_payload_bytes = $2 where queue = $1", QUEUE, limit
    )
    key_path = case.fields.get("key_path")
    await set_queue_config(
        connection,
        QUEUE,
        keyed=key_path is not None,
        key_path=key_path,
        encryption=case.fields.get("encryption", "accept"),
    )


async def enqueue(queue: QueueService[Any], case: Case, options: ServiceOptions) -> list[int]:
    """Enqueue what a case says with the library, with more options."""
    given = _arguments(case, options)
    if case.is_several:
        found: list[int] = await queue.enqueue_many(case.messages, case.delay_seconds, **given)
        return found
    return [await queue.enqueue(case.messages[0], case.delay_seconds, **given)]


def enqueue_sync(queue: SyncQueueService[Any], case: Case, options: ServiceOptions) -> list[int]:
    """Do the same with the library for programs without asyncio."""
    given = _arguments(case, options)
    if case.is_several:
        found: list[int] = queue.enqueue_many(case.messages, case.delay_seconds, **given)
        return found
    return [queue.enqueue(case.messages[0], case.delay_seconds, **given)]


def _arguments(case: Case, options: ServiceOptions) -> dict[str, Any]:
    given: dict[str, Any] = {**options, **case.unique}
    if case.unique_keys is not None:
        several = {"unique_keys": case.unique_keys}
        given |= several if case.is_several else {"unique_key": case.unique_keys[0]}
    return given


async def check_stored(
    connection: Connection, case: Case, msg_ids: list[int], begun_at: datetime
) -> None:
    """Check that exactly what the case says is stored, under the ids that were returned."""
    rows = await connection.fetch(
        f"select msg_id, message::text as message, headers::text as headers, read_ct, "
        f"extract(epoch from vt - $1)::float8 as delay from pgmq.q_{QUEUE} order by msg_id",
        begun_at,
    )
    # Jobs with one unique key are one job.
    assert [row["msg_id"] for row in rows] == list(dict.fromkeys(msg_ids))
    assert len(msg_ids) == len(case.messages)
    for row, stored in zip(rows, case.stored, strict=True):
        if "readable" in stored:
            readable = json.loads(row["message"])
            assert readable.pop("enc")["key"] == "k2"
            assert readable == stored["readable"]
            message = decrypted_body(row["message"], KEYS, QUEUE)
            assert json.loads(message) == stored["message"]
        else:
            assert json.loads(row["message"]) == stored["message"]
        assert row["headers"] is None or json.loads(row["headers"]) == stored["headers"]
        assert (row["headers"] is None) == ("headers" not in stored)
        assert row["read_ct"] == 0
        assert 0 <= row["delay"] - stored.get("delay_seconds", 0) <= _SLACK_SECONDS


async def check_nothing_stored(connection: Connection) -> None:
    """Check that the queue is empty."""
    assert await connection.fetchval(f"select count(*) from pgmq.q_{QUEUE}") == 0


async def server_time(connection: Connection) -> datetime:
    """Return the server's time."""
    now: datetime = await connection.fetchval("select clock_timestamp()")
    return now


def check_refusal(case: Case, error: BaseException) -> None:
    """Check that an error of the library is the one that the case names."""
    assert case.error is not None
    names = {each.__name__ for each in type(error).__mro__}
    assert case.error["class"] in names
    notes = " ".join(getattr(error, "__notes__", []))
    assert case.error.get("says", "") in str(error)
    if "position" in case.error:
        assert f"job {case.error['position']} of the batch" in notes


def _written_out(value: Any) -> Any:
    """Return a value with `{"of_characters": N}` written out as text of N characters."""
    if isinstance(value, dict):
        if "of_characters" in value:
            return value.get("character", "x") * int(value["of_characters"])
        return {name: _written_out(each) for name, each in value.items()}
    return [_written_out(each) for each in value] if isinstance(value, list) else value
