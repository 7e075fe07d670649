"""What other clients and administrators may leave in the tables of a queue."""

from __future__ import annotations

MOMENTS = (
    "infinity",
    "-infinity",
    "4713-01-01 00:00:00+00 BC",
    "0001-01-01 00:00:00+00",
    "294276-12-31 00:00:00+00",
    "2026-11-29 10:00:00+00",
)
"""Times that PostgreSQL has; most of them Python has not."""

READ_COUNTS = (-(2**31), -1, 100_000, 2**31 - 1)

HEADERS = (
    "null",
    "7",
    '"text"',
    "[]",
    '{"a": {"b": [1, null]}}',
    '{"meshhook-settled": "x"}',
    '{"meshhook-settled": -5}',
    '{"meshhook-settled": 1e400}',
    '{"meshhook-settled": 99999999999}',
    '{"meshhook-settled": [1]}',
    '{"meshhook-dead-letter": []}',
    (
        '{"meshhook-dead-letter": {"msg_id": "x", "attempts": -3, "error_type": 5,'
        ' "error_message": {"a": 1}, "error_stack": [], "first_enqueued_at": "infinity",'
        ' "last_started_at": "0001-01-01T00:00:00+14:00"}}'
    ),
    (
        '{"meshhook-dead-letter": {"msg_id": 1e99, "attempts": 1e99, "queue": "jobs",'
        ' "error_type": "\\u001b[31mx\\ny", "error_message": "日本 \\u202e",'
        ' "first_enqueued_at": "9999-12-31T23:59:59-14:00"}}'
    ),
    '{"\\u001b[2J\\u202e": "header\\u0007"}',
)

MESSAGES = (
    "null",
    "[]",
    '"text"',
    "1e131071",
    '{"run_id": "' + "r" * 250 + '"}',
    '{"run_id": "\\u001b[31m日本\\u0007", "workflow_id": ["w"], "project_id": {"p": 1}}',
    '{"run_id": 5, "payload": "\\u001b]0;title\\u0007"}',
)


GIANTS = (
    "'[' || repeat('1e131071,', 8300) || '1]'",
    "'\"' || repeat('a', 2000000) || '\"'",
    "'{\"meshhook-dead-letter\": {\"error_type\": \"' || repeat('a', 8000000) || '\"}}'",
    "'{\"run_id\": \"' || repeat('a', 2000000) || '\"}'",
    '\'{"meshhook-settled": 1e131071, "run_id": 1e131071, "x": 0e-16383}\'',
    "'[[' || repeat('0e-16383,', 60000) || '1]]'",
    "repeat('[', 5000) || repeat(']', 5000)",
)
"""SQL of JSON whose text is much larger than what is stored of it, or takes long to make."""


def statements(table: str) -> list[tuple[str, tuple[object, ...]]]:
    """Return statements, with their arguments, that put odd rows into a table of messages."""
    insert = f"insert into pgmq.{table} "
    found: list[tuple[str, tuple[object, ...]]] = [
        (
            insert + "(enqueued_at, vt, message) "
            "values ($1::text::timestamptz, $2::text::timestamptz, '{}')",
            (enqueued_at, vt),
        )
        for enqueued_at, vt in [
            *((each, "now") for each in MOMENTS),
            *(("now", each) for each in MOMENTS),
        ]
    ]
    found += [
        (insert + "(read_ct, vt, message) values ($1::integer, now(), '{}')", (count,))
        for count in READ_COUNTS
    ]
    found += [
        (insert + "(vt, message, headers) values (now(), '{}', $1::jsonb)", (headers,))
        for headers in HEADERS
    ]
    found += [
        (insert + "(vt, message) values (now(), $1::jsonb)", (message,)) for message in MESSAGES
    ]
    found += [
        (f"{insert}(vt, message, headers) values (now(), {columns})", ())
        for giant in GIANTS
        for columns in (f"({giant})::jsonb, null", f"'{{}}', ({giant})::jsonb")
    ]
    return [*found, (insert + "(vt, message) values (now(), null)", ())]


HISTORY = """
insert into meshhook.job_attempts (
    queue, msg_id, attempt, outcome, enqueued_at, started_at, finished_at, retry_at, error_type)
select 'jobs', 1000 + row_number() over (), 2147483647, 'retried', e, s, f, e, E'\\x1b[31m'
from unnest($1::text[]::timestamptz[]) e, unnest(array[e, now()]) s, unnest(array[e, now()]) f
"""
"""Attempts enqueued at each of the times $1, which began and ended then or now."""

WORKERS = """
insert into meshhook.workers (
    queue, worker, host, concurrency, running, processed, busy_seconds, draining, started_at,
    seen_at)
values ('jobs', 'one', 'host', 1, 1, 1, 'infinity', false, '-infinity', 'infinity'),
    ('jobs', 'two', E'\\x1b[2J', 1, 1, 1, 'nan', false, '4713-01-01 BC', '294276-01-01')
"""
