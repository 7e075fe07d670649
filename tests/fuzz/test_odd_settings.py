"""Rows that others write into meshhook.queue_config, with every value that its rules allow."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from meshhook import Database, Job, KeyRing, QueueService, get_queue_config, set_queue_config
from meshhook.errors import InvalidSettingError, MeshHookError, QueueNotFoundError
from meshhook.queue_config import (
    KEY_SETTING_NAMES,
    LIMIT_NAMES,
    LOOKUP_IDS,
    LOOKUP_NAMES,
    PRIORITY_SETTING_NAMES,
    SETTING_NAMES,
    QueueSettings,
)
from meshhook.settings_cache import SettingsCache
from meshhook_operator.databases.database import DatabaseAddress, QueueDatabase
from meshhook_operator.databases.demand import DemandRequest, QueueDemand, QueueProblem, read_demand
from support.command_line import run_command
from support.fuzzing import examples
from support.hostile import is_safe_line
from support.odd_rows import MOMENTS
from support.workers import make_worker


def _ends(low: int, high: int) -> st.SearchStrategy[int]:
    return st.sampled_from([low, high]) | st.integers(low, high)


DAYS = _ends(1, 36_500)
PAUSES_SECONDS = st.tuples(*[st.sampled_from([0.1, 86_400.0]) | st.floats(0.1, 86_400)] * 2).map(
    sorted
)
BACKOFFS_MS = st.tuples(_ends(0, 604_800_000), _ends(0, 604_800_000)).map(sorted)
KEYS = KeyRing({"k1": bytes(32)})
TIMES = st.sampled_from([*MOMENTS, "10000-01-01", "9999-12-31 23:59:59-14", "0044-03-15 BC", "now"])
ROWS = st.fixed_dictionaries(
    {
        "visibility_timeout_seconds": _ends(1, 43_200),
        "max_retry_attempts": _ends(1, 1_000),
        "retry_jitter": st.sampled_from([0.0, -0.0, 5e-324, 1.0]) | st.floats(0, 1),
        "job_timeout_seconds": st.sampled_from([None, 5e-324, 604_800.0])
        | st.floats(0, 604_800, exclude_min=True),
        "dlq_enabled": st.booleans(),
        "dlq_retention_days": st.none() | DAYS,
        "archive_retention_days": st.none() | DAYS,
        "history_retention_days": DAYS,
        "max_payload_bytes": _ends(1_024, 104_857_600),
        "paused": st.booleans(),
        "results": st.booleans(),
        "job_expiry_seconds": st.sampled_from([None, 0.001, 31_622_400.0]),
        "dead_letter_follow_up": st.sampled_from([None, "other", "a" * 43]),
        "max_retries_per_second": st.sampled_from([None, 0.001, 1e6]),
        "on_expiry": st.sampled_from(["archive", "dead_letter"]),
        "retry_backoff": st.sampled_from(["exponential", "fixed"]),
        "retry_delays_ms": st.lists(_ends(0, 604_800_000), max_size=3),
        "keep_bodies_days": st.none() | DAYS,
        # Without the index, which the trigger asks for.
        "prioritized": st.booleans(),
        "priority_target_seconds": st.lists(
            st.sampled_from([0.1, 604_800.0]) | st.floats(0.1, 604_800), min_size=4, max_size=4
        ).map(sorted),
        "urgent_slots": _ends(0, 10_000),
        "encryption": st.sampled_from(["accept", "require"]),
        "lookup_by": st.sets(st.sampled_from(LOOKUP_IDS)).map(
            lambda ids: [each for each in LOOKUP_IDS if each in ids]
        ),
        "starts_period_seconds": st.sampled_from([0.1, 86_400.0]) | st.floats(0.1, 86_400),
        # Without the indexes, which the trigger asks for.
        "keyed": st.booleans(),
        "ordered": st.booleans(),
        "on_dead_letter": st.sampled_from(["continue", "block"]),
        "key_path": st.sampled_from([None, "payload", "a.b-c._.0"]),
        "adopted_msg_id": _ends(-(2**63), 2**63 - 1),
        "created_at": TIMES,
        "updated_at": TIMES,
    }
)
LIMITS = st.none() | _ends(1, 1_000_000)
ROWS = st.builds(
    lambda row, backoffs, pauses, limits: (
        row
        | dict(zip(("retry_backoff_base_ms", "retry_backoff_max_ms"), backoffs, strict=True))
        | dict(zip(("breaker_pause_seconds", "breaker_max_pause_seconds"), pauses, strict=True))
        | {"ordered": row["keyed"] and row["ordered"]}
        # The table takes either keys or priorities.
        | {"prioritized": row["prioritized"] and not row["keyed"]}
        # The library takes it of ordered keys with dead letters only.
        | {
            "on_dead_letter": row["on_dead_letter"]
            if row["keyed"] and row["ordered"] and row["dlq_enabled"]
            else "continue"
        }
        # The table takes limits of keyed queues only.
        | {name: limits[name] if row["keyed"] else None for name in limits}
    ),
    ROWS,
    BACKOFFS_MS,
    PAUSES_SECONDS,
    st.fixed_dictionaries(
        dict.fromkeys(LIMIT_NAMES[:-1], LIMITS) | {"breaker_failures": st.none() | _ends(1, 10_000)}
    ),
)
SETTINGS_OF_OPERATOR = QueueSettings().model_dump(
    exclude={
        *("paused", "encryption"),
        *KEY_SETTING_NAMES,
        *LOOKUP_NAMES,
        *PRIORITY_SETTING_NAMES,
    }
)
NAMES = ("0", "a" * 43, "a--_", "z_dlq_")
"""What the table takes, and no queue has tables for."""


async def _write(connection: Any, **row: Any) -> None:
    """Replace the row of queue `jobs`, whatever the triggers of the table say."""
    columns = {"queue_name": "jobs", **row}
    times = ("created_at", "updated_at")
    values = ", ".join(
        f"${at}::text::timestamptz" if name in times else f"${at}"
        for at, name in enumerate(columns, 1)
    )
    async with connection.transaction():
        await connection.execute("set local session_replication_role = replica")
        await connection.execute(
            "delete from meshhook.queue_config where queue_name = $1", columns["queue_name"]
        )
        await connection.execute(
            f"insert into meshhook.queue_config ({', '.join(columns)}) values ({values})",
            *columns.values(),
        )


async def _written(url: str, **row: Any) -> None:
    connection = await asyncpg.connect(url)
    try:
        await _write(connection, **row)
    finally:
        await connection.close()


def _operators(url: str) -> QueueDatabase:
    return QueueDatabase(
        DatabaseAddress(url, pooled=False),
        on_wake=lambda _: None,
        on_identity=lambda: None,
        registry=CollectorRegistry(),
    )


def _settings(config: QueueSettings) -> dict[str, Any]:
    """Return settings as a row has them."""
    found = {name: getattr(config, name) for name in SETTING_NAMES}
    return {name: list(each) if isinstance(each, tuple) else each for name, each in found.items()}


async def _operator_copes(url: str, database: Database, row: dict[str, Any]) -> None:
    (found,) = (await read_demand(database, [DemandRequest("jobs", 5)], waiting_seconds=1)).values()
    assert isinstance(found, QueueDemand), found
    assert {name: found.settings[name] for name in SETTING_NAMES} == {
        name: row[name] for name in SETTING_NAMES
    }
    operators = _operators(url)
    try:
        await operators.ensure_queue("jobs", SETTINGS_OF_OPERATOR)
    finally:
        await operators.close()


async def _runs_one(url: str, database: Database) -> None:
    """Run a job in a worker that starts on the row; one in a paused queue stays."""
    queue = QueueService[Any](database, "jobs", encryption=KEYS)
    msg_id = await queue.enqueue({})
    began: asyncio.Queue[int] = asyncio.Queue()

    async def handler(job: Job[Any]) -> None:
        began.put_nowait(job.msg_id)

    config = await get_queue_config(database, "jobs")
    async with make_worker(url, handler, encryption=KEYS):
        # With less time an attempt may be over before its handler begins.
        if not config.paused and (config.job_timeout_seconds or 60) >= 60:
            assert await began.get() == msg_id
    await queue.purge_queue()


@examples(5)
@given(row=ROWS)
def test_every_reader_takes_every_row(row, run, shared_url, database, monkeypatch):
    """Library, worker, operator and command line have the settings of the row."""
    monkeypatch.setenv("MESHHOOK_DATABASE_URL", shared_url)
    run(_written(shared_url, **row))
    for config in (
        run(get_queue_config(database, "jobs")),
        run(SettingsCache(database, "jobs").fresh()),
    ):
        assert _settings(config) == {name: row[name] for name in SETTING_NAMES}
        assert config.created_at.utcoffset() is not None
    run(_runs_one(shared_url, database))
    for words in ("queue list", "queue show jobs", "stats"):
        for more in ((), ("--json",)):
            ended = run_command([*words.split(), *more])
            assert ended.code == 0, ended.err
            assert all(is_safe_line(line) for line in ended.out.split("\n"))
            if more:
                json.loads(ended.out, parse_constant=pytest.fail)
    # The operator's last call gives the queue other settings.
    run(_operator_copes(shared_url, database, row))


@examples(20)
@given(row=ROWS, value=st.booleans())
def test_every_row_can_be_changed(row, value, run, shared_url, database):
    """A change of one setting leaves the others, whenever the row says that it was made."""
    run(_written(shared_url, **row))
    changed = run(set_queue_config(database, "jobs", paused=value))
    assert _settings(changed) == {name: row[name] for name in SETTING_NAMES} | {"paused": value}


async def _follows(url: str) -> None:
    """Give a running worker rows, each with a time that Python does not have."""
    seen: asyncio.Queue[int] = asyncio.Queue()

    async def handler(job: Job[Any]) -> None:
        seen.put_nowait(job.max_attempts)

    connection = await asyncpg.connect(url)
    try:
        await _write(connection)
        queue = QueueService[Any](connection, "jobs")
        async with make_worker(url, handler):
            for attempts, moment in enumerate(MOMENTS, 11):
                await _write(
                    connection, max_retry_attempts=attempts, created_at=moment, updated_at=moment
                )
                await connection.execute("select pg_notify('meshhook_config', 'jobs')")
                most = 0
                while most != attempts:
                    await queue.enqueue({})
                    most = await seen.get()
    finally:
        await connection.close()


def test_a_running_worker_follows_odd_rows(run, shared_url, database):
    """It goes on with the settings of each row."""
    run(_follows(shared_url))


def test_rows_without_tables_are_named(run, shared_url, database, monkeypatch):
    """A row whose queue has no tables is no queue to anybody, and hides no other."""
    monkeypatch.setenv("MESHHOOK_DATABASE_URL", shared_url)
    run(_written(shared_url))
    for name in NAMES:
        run(_written(shared_url, queue_name=name))
    try:
        listed = run_command(["queue", "list", "--json"])
        assert "jobs" in [each["queue"] for each in json.loads(listed.out)], listed.err
        assert run_command(["stats"]).code == 0
        requests = [DemandRequest(name, 5) for name in ("jobs", *NAMES)]
        found = run(read_demand(database, requests, waiting_seconds=1))
        assert isinstance(found["jobs"], QueueDemand)
        for name in NAMES:
            shown = run_command(["queue", "show", name])
            assert shown.code
            assert name in shown.err
            assert "Traceback" not in shown.err
            assert found[name] == QueueProblem(
                "the queue does not exist, or only in part", is_missing=True
            )
            with pytest.raises(QueueNotFoundError, match=name):
                run(make_worker(shared_url, print, queue_name=name).start())
            with pytest.raises(MeshHookError, match=name):
                run(QueueService[Any](database, name).enqueue({}))
    finally:
        run(database.fetch("delete from meshhook.queue_config where queue_name <> 'jobs'"))


def test_a_row_beyond_the_rules_is_named(run, shared_url, database, monkeypatch):
    """Where somebody has taken a rule away: the queue, the setting and its value."""
    monkeypatch.setenv("MESHHOOK_DATABASE_URL", shared_url)
    rule = "alter table meshhook.queue_config {} constraint queue_config_retry_jitter_check"
    run(database.fetch(rule.format("drop")))
    try:
        run(_written(shared_url, retry_jitter=7.0))
        named = r"'jobs'.*meshhook\.queue_config.*retry_jitter=7\b"
        for work in (
            get_queue_config(database, "jobs"),
            set_queue_config(database, "jobs", paused=True),
            make_worker(shared_url, print).start(),
        ):
            with pytest.raises(InvalidSettingError, match=named):
                run(work)
        shown = run_command(["queue", "show", "jobs"])
        assert shown.code
        assert "retry_jitter=7" in shown.err
    finally:
        run(_written(shared_url))
        run(database.fetch(rule.format("add") + " check (retry_jitter between 0 and 1)"))
