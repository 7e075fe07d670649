"""The statements in `sql/`, one a file, with the names of a queue's tables filled in.

This is the only place where SQL is put together from text. The names are checked first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources

from meshhook.names import dead_letter_queue_name, validate_key_path, validate_queue_name

_UTF8 = re.compile(r"\{utf8 ([^{}]+)\}")
_MOMENT = re.compile(r"\{moment ([a-z_.]+)\}")
# Other clients may store any time that PostgreSQL has: infinity, 4713 BC, 294276 AD. Python has
# the years 1 to 9999, less a day at each end, which a change of the time zone may need.
_MOMENT_SQL = (
    r"case when \1 < '0001-01-02 00:00+00' then '0001-01-02 00:00+00' "
    r"when \1 > '9999-12-30 00:00+00' then '9999-12-30 00:00+00' else \1 end"
)
_DEAD_LETTER_SQL = """d.msg_id, {moment d.enqueued_at} as enqueued_at,
    case when d.message is null then 'null' else meshhook.shown_text(b.body) end as body,
    meshhook.shown_text(case when d.headers is null then null else coalesce(
        meshhook.short_text(d.headers, true),
        case when pg_catalog.pg_column_size(d.headers) <= 120000 then
            meshhook.short_text(pg_catalog.jsonb_build_object('meshhook-dead-letter'::text,
                d.headers -> 'meshhook-dead-letter'::text), true) end,
        '{"meshhook-unread-headers": true}') end) as headers,
    meshhook.message_id_text(d.message, 'run_id') as run_id,
    meshhook.message_id_text(d.message, 'workflow_id') as workflow_id,
    meshhook.message_id_text(d.message, 'project_id') as project_id"""
"""The columns read of a dead letter `d` with its bounded body `b`: no more than can be shown."""
# By default PostgreSQL looks a type's name up among temporary tables first.
_TYPE = re.compile(r"::(?=(?:text|jsonb|float8|timestamptz|regclass|oid)\b)")
_TYPE_SQL = "::pg_catalog."


_KEY_OF_HEADER_SQL = "meshhook.key_text(q.headers ->> 'x-pgmq-group'::pg_catalog.text)"
_RUNNING_SQL = "case when meshhook.has_open_attempt(q.read_ct, q.headers) then {} end"
_PLACE_SQL = "meshhook.place_in_order(q.msg_id, q.headers)"
_BREAKERS_SQL = """, (select {utf8 meshhook.record_key_failures($17::pg_catalog.text,
    pg_catalog.array_agg(s.key), pg_catalog.array_agg(coalesce(s.started_at, s.finished_at)),
    pg_catalog.array_agg(s.error_type))}
    from settled s where ($18::boolean[])[s.position]) as opened,
    (select {utf8 meshhook.record_key_successes($17::pg_catalog.text,
    pg_catalog.array_agg(s.key), pg_catalog.array_agg(s.started_at))}
    from settled s where s.outcome = 'succeeded') as closed"""
_CLOSED_SQL = """, {utf8 meshhook.record_key_successes($12::pg_catalog.text,
    pg_catalog.array_agg(key), pg_catalog.array_agg(started_at))} as closed"""
_IN_BYTES = '({}) collate pg_catalog."C"'


_KEPT_STATEMENTS = 256
"""How many statements are kept for the tables of queues: a worker has some 20 for each queue."""


@dataclass(frozen=True, slots=True)
class QueueTables:
    """How a queue's tables differ between PGMQ installations."""

    queue_name: str
    """The queue."""
    has_last_read_at: bool = True
    """Whether it has the column `last_read_at`: queues from PGMQ before 1.10.1 may lack it."""
    holds_any_bytes: bool = False
    """Whether texts may hold bytes that are not UTF-8: the database's encoding is SQL_ASCII."""


@lru_cache(maxsize=_KEPT_STATEMENTS)
def load(
    name: str,
    tables: QueueTables | str | None = None,
    *,
    target: str | None = None,
    key_path: str | None = None,
    has_breakers: bool = False,
) -> str:
    """Return the statement `sql/<name>.sql`.

    `{utf8 TEXT}` in it becomes that text, or null where it is not UTF-8; `{moment COLUMN}` the time
    in that column, or the nearest that Python has; `{dead_letter}` what is read of a dead letter;
    `{key}` the key of a message `q`, `{running_key}` the same if it runs, else null, and `{place}`
    its place among those of its key, if they are ordered: all as their indexes have them. Types are
    named with their schema.

    Args:
        name: the file's name without its ending.
        tables: the queue whose tables the statement is for; None for one that names no queue.
        target: the queue that the statement moves messages to, if it moves any.
        key_path: where in the body the key of a message is. Default: in its header.
        has_breakers: whether a statement that records attempts tells the breakers of their keys.
            Default: no.

    Raises:
        InvalidQueueNameError: if a queue's name is not a safe one.
        InvalidSettingError: if the path is not a safe one.
    """
    text = _read(name)
    if tables is None:
        return text
    if isinstance(tables, str):
        tables = QueueTables(tables)
    queue = validate_queue_name(tables.queue_name)
    if target is not None:
        text = text.replace("{target_table}", f'pgmq."q_{validate_queue_name(target)}"')
    for place, breaker_sql in (
        ("{with_key}", ", {key} as key"),
        ("{and_key}", ", key"),
        ("{breaker_changes}", _BREAKERS_SQL),
        ("{closed_breakers}", _CLOSED_SQL),
    ):
        text = text.replace(place, breaker_sql if has_breakers else "")
    text = _UTF8.sub(r"meshhook.utf8_text(\1)" if tables.holds_any_bytes else r"\1", text)
    key = _KEY_OF_HEADER_SQL
    if key_path is not None:
        names = ",".join(validate_key_path(key_path).split("."))
        key = f"meshhook.key_text(q.message #>> '{{{names}}}'::pg_catalog.text[])"
    last_read = "last_read_at = pg_catalog.now()," if tables.has_last_read_at else ""
    return (
        text.replace("{queue_table}", f'pgmq."q_{queue}"')
        .replace("{archive_table}", f'pgmq."a_{queue}"')
        .replace("{dlq_table}", f'pgmq."q_{dead_letter_queue_name(queue)}"')
        .replace("{set_last_read_at}", last_read)
        .replace("{key}", _IN_BYTES.format(key))
        .replace("{place}", _PLACE_SQL)
        .replace("{running_key}", _IN_BYTES.format(_RUNNING_SQL.format(key)))
    )


@cache
def _read(name: str) -> str:
    text = resources.files("meshhook.store").joinpath("sql", f"{name}.sql").read_text("utf-8")
    text = text.replace("{dead_letter}", _DEAD_LETTER_SQL)
    return _TYPE.sub(_TYPE_SQL, _MOMENT.sub(_MOMENT_SQL, text))
