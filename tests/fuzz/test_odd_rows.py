"""Every command that reads, on tables in which other clients have left anything.

Which commands read comes from the argument parser: one that is new fails the first test until it
is listed, or is walked with the others.
"""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshhook import QueueService, set_queue_config
from support import odd_rows
from support.command_line import COMMANDS, Command, run_command
from support.fuzzing import examples
from support.hostile import TEXTS, is_safe_line

OTHERS = {
    "audit export",
    "demo",
    "dlq delete",
    "doctor",
    "encryption new-key",
    "encryption rotate",
    "encryption status",
    "encryption use-key",
    "dlq purge",
    "dlq replay",
    "enqueue",
    "console",
    "exporter",
    "jobs cancel",
    "jobs delete",
    "jobs replay",
    "jobs reschedule",
    "jobs set-priority",
    "jobs run-now",
    "keys hold",
    "keys resume",
    "keys set",
    "migrate",
    "migrate sql",
    "publish",
    "queue bind",
    "queue create",
    "queue drop",
    "queue pause",
    "queue purge",
    "queue resume",
    "queue set",
    "queue unbind",
    "roles create",
    "roles grant",
    "roles sql",
    "schedule add",
    "schedule delete",
    "schedule pause",
    "schedule resume",
    "schedule run",
    "serve-postgres",
    "worker",
}
"""Those that write, or that read no rows."""
READERS = {
    "audit list",
    "dlq errors",
    "dlq list",
    "dlq show",
    "groups list",
    "schedule history",
    "schedule list",
    "groups show",
    "jobs list",
    "jobs show",
    "keys list",
    "keys show",
    "queue bindings",
    "queue list",
    "queue show",
    "roles check",
    "stats",
    "workers",
}
STORABLE = TEXTS.map(
    lambda text: (
        text.replace("\0", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )
)
"""Texts that PostgreSQL can hold."""
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.just(10**300)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | STORABLE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STORABLE, inner, max_size=3),
    max_leaves=6,
)
OUR_HEADERS = st.sampled_from(
    [
        "meshhook-claim",
        "meshhook-dead-letter",
        "meshhook-foreign-headers",
        "meshhook-replayed-from",
        "meshhook-settled",
        "traceparent",
        "tracestate",
        "x-pgmq-group",
    ]
)
DIED = st.dictionaries(
    st.sampled_from(
        [
            "attempts",
            "error_message",
            "error_stack",
            "error_type",
            "first_enqueued_at",
            "last_started_at",
            "msg_id",
            "queue",
            "worker",
        ]
    ),
    JSON | st.sampled_from(odd_rows.MOMENTS),
    max_size=9,
)
HEADERS = JSON | st.dictionaries(OUR_HEADERS | STORABLE, JSON | DIED, max_size=4)
BODIES = JSON | st.dictionaries(
    st.sampled_from(["run_id", "workflow_id", "project_id", "payload"]), JSON, max_size=4
)
MOMENTS = st.sampled_from([*odd_rows.MOMENTS, "now", "epoch", "1999-12-31", "tomorrow"])
MESSAGES = st.tuples(st.sampled_from(odd_rows.READ_COUNTS) | st.integers(0, 9), MOMENTS, MOMENTS)
ROWS = st.lists(st.tuples(MESSAGES, BODIES, HEADERS), min_size=1, max_size=3)
ATTEMPTS = st.lists(
    st.tuples(
        st.sampled_from(["succeeded", "retried", "lost", "dead_lettered", "replayed"]),
        *[STORABLE | st.none()] * 7,
        MOMENTS,
        MOMENTS,
        MOMENTS,
    ),
    min_size=1,
    max_size=3,
)
WORKERS = st.lists(
    st.tuples(STORABLE, STORABLE, st.sampled_from(["nan", "infinity", "0", "1e308"])),
    max_size=2,
    unique_by=lambda each: each[0],
)

INSERT_MESSAGE = """
insert into pgmq.{} (msg_id, read_ct, vt, enqueued_at, message, headers)
overriding system value
values (nextval('pgmq.q_jobs_msg_id_seq'), $1::int, $2::text::timestamptz,
    $3::text::timestamptz, $4::text::jsonb, $5::text::jsonb)
"""
IDS = {"q_jobs": " returning msg_id", "q_jobs_dlq": " returning msg_id"}
INSERT_ATTEMPT = """
insert into meshhook.job_attempts (
    queue, msg_id, attempt, outcome, run_id, workflow_id, worker, error_type, error_message,
    error_stack, trace_id, started_at, finished_at, retry_at)
values ('jobs', 777, 2147483647, $1, $2, $3, $4, $5, $6, $7, $8, $9::text::timestamptz,
    $10::text::timestamptz, $11::text::timestamptz)
"""
ODD_GROUP = "\x1b]0;group\x07\u202e"
INSERT_GROUP = f"""
insert into meshhook.job_groups (
    id, queue, name, msg_ids, total, succeeded, failed, created_at, checked_at, finished_at,
    callback_queue, callback_message, callback_error)
values (gen_random_uuid(), 'jobs', '{ODD_GROUP}', '{{}}', 2147483647, -2147483648, 7, '-infinity',
    '-infinity', 'infinity', 'No queue', '{{}}', '{ODD_GROUP}')
"""
INSERT_SCHEDULE = f"""
insert into meshhook.schedules (queue, name, cron, time_zone, message, key, error, failed_at)
values ('jobs', 'odd', '{ODD_GROUP}', '{ODD_GROUP}', '{{"a": 1e3000}}', '{ODD_GROUP}',
    '{ODD_GROUP}', 'infinity')
"""
INSERT_FIRING = """
insert into meshhook.schedule_firings (queue, name, due_at, outcome, missed)
values ('jobs', 'odd', '-infinity', 'missed', -2147483648), ('jobs', 'odd', 'infinity', 'missed', 1)
"""
INSERT_FINISHED = """
insert into meshhook.finished_jobs (queue, msg_id, enqueued_at, finished_at, outcome, message,
    headers, replayed_as, replayed_at)
values ('jobs', 777, null, 'infinity', 'cancelled', $1::text::jsonb, $2::text::jsonb,
    -9223372036854775808, '-infinity')
"""
INSERT_WORKER = """
insert into meshhook.workers (
    queue, worker, host, concurrency, running, processed, busy_seconds, draining, started_at,
    seen_at)
values ('jobs', $1, $2, 2147483647, 0, 9223372036854775807, $3::text::float8, true, '-infinity',
    'infinity')
"""


def test_every_command_reads_or_is_known_not_to():
    """One that is new is walked once it is listed."""
    assert {str(each) for each in COMMANDS} == OTHERS | READERS


async def _fill(url: str, drawn: dict[str, Any]) -> dict[str, list[int]]:
    connection = await asyncpg.connect(url)
    ids: dict[str, list[int]] = {}
    try:
        await connection.execute(
            "truncate pgmq.q_jobs, pgmq.q_jobs_dlq, pgmq.a_jobs, meshhook.job_attempts, "
            "meshhook.workers, meshhook.job_groups, meshhook.schedules, meshhook.schedule_firings, "
            "meshhook.finished_jobs"
        )
        for table in ("q_jobs", "q_jobs_dlq", "a_jobs"):
            ids[table] = [
                await connection.fetchval(
                    INSERT_MESSAGE.format(table) + IDS.get(table, ""),
                    *numbers,
                    json.dumps(body),
                    json.dumps(headers),
                )
                for numbers, body, headers in drawn[table]
            ]
        for attempt in drawn["attempts"]:
            await connection.execute(INSERT_ATTEMPT, *attempt)
        await connection.execute(INSERT_GROUP)
        await connection.execute(INSERT_SCHEDULE)
        await connection.execute(INSERT_FIRING)
        await connection.execute(INSERT_FINISHED, *drawn.get("finished", (None, None)))
        for worker in drawn["workers"]:
            await connection.execute(INSERT_WORKER, *worker)
    finally:
        await connection.close()
    return {"jobs show": [*ids["q_jobs"], 777], "dlq show": ids["q_jobs_dlq"]}


def _lines(command: Command, ids: dict[str, list[int]]) -> list[list[str]]:
    words = [*command.words]
    if str(command) in ids:
        return [[*words, "jobs", str(each)] for each in ids[str(command)]]
    if command.has("every"):
        words.append("--all")
    if str(command) in {"dlq errors", "dlq list", "keys list", "keys show", "queue show"}:
        words.append("jobs")
    if str(command) == "schedule history":
        words += ["jobs", "odd"]
    if str(command) == "groups show":
        words += ["jobs", ODD_GROUP, "--repair"]
    if str(command) == "keys show":
        words.append("")
    return [words]


def _check(arguments: list[str]) -> str:
    ended = run_command(arguments)
    # What is missing in the rights of roles is no fault of a row.
    assert ended.code == 0 or arguments[0] == "roles", ended.err
    assert "Traceback" not in ended.err
    odd = [line for line in (ended.out + ended.err).split("\n") if not is_safe_line(line)]
    assert not odd
    return ended.out


@examples(3)
@given(
    drawn=st.fixed_dictionaries(
        {
            "q_jobs": ROWS,
            "q_jobs_dlq": ROWS,
            "a_jobs": ROWS,
            "attempts": ATTEMPTS,
            "finished": st.tuples(BODIES, HEADERS).map(lambda each: [*map(json.dumps, each)]),
            "workers": WORKERS,
        }
    )
)
def test_all_rows_can_be_looked_at(drawn, run, shared_url, database, monkeypatch):
    """By people, whose terminal obeys none of them, and by programs, as JSON."""
    monkeypatch.setenv("MESHHOOK_DATABASE_URL", shared_url)
    run(set_queue_config(database, "jobs", keyed=True))
    ids = run(_fill(shared_url, drawn))
    for command in COMMANDS:
        if str(command) in READERS:
            for number, arguments in enumerate(_lines(command, ids)):
                if number % 2 == 0:
                    may_be_empty = str(command) in {"queue bindings", "roles check", "workers"}
                    assert _check(arguments) or may_be_empty
                if number % 2 or str(command) not in ids:
                    json.loads(_check([*arguments, "--json"]), parse_constant=pytest.fail)


@pytest.mark.parametrize("keyed", [False, True])
@examples(10)
@given(rows=ROWS)
def test_any_message_is_handed_out_or_becomes_a_dead_letter(rows, keyed, run, shared_url, database):
    """Whatever its headers claim, none is lost, and none holds up its neighbours."""
    run(set_queue_config(database, "jobs", keyed=keyed))
    rows = [((numbers[0], "now", numbers[2]), body, headers) for numbers, body, headers in rows]
    empty: dict[str, Any] = {"q_jobs_dlq": [], "a_jobs": [], "attempts": [], "workers": []}
    ids = run(_fill(shared_url, {"q_jobs": rows, **empty}))["jobs show"][:-1]
    queue = QueueService[Any](database, "jobs")
    done: set[int] = set()
    while job := run(queue.dequeue()):
        assert run(queue.acknowledge(job))
        done.add(job.msg_id)
    kept = run(database.fetch("select msg_id from pgmq.q_jobs"))
    dead = run(database.fetch("select headers::text as headers from pgmq.q_jobs_dlq"))
    buried = {json.loads(row["headers"])["meshhook-dead-letter"]["msg_id"] for row in dead}
    assert not kept
    assert sorted([*done, *buried]) == sorted(ids)


def test_lists_hold_no_bodies(run, shared_url, database, monkeypatch):
    """Of messages of 10 MB each, a list for people takes nowhere near as much memory."""
    monkeypatch.setenv("MESHHOOK_DATABASE_URL", shared_url)
    run(set_queue_config(database, "jobs", keyed=True))
    body = "x" * 10_000_000
    rows = [((0, "now", "now"), {"run_id": "r", "payload": body}, None)] * 8
    run(
        _fill(
            shared_url,
            {"q_jobs": rows, "q_jobs_dlq": [], "a_jobs": [], "attempts": [], "workers": []},
        )
    )
    for command in COMMANDS:
        if str(command) in READERS - {"jobs show", "dlq show"}:
            for arguments in _lines(command, {}):
                tracemalloc.start()
                try:
                    _check(arguments)
                    _, peak = tracemalloc.get_traced_memory()
                finally:
                    tracemalloc.stop()
                assert peak < 40_000_000, str(command)
