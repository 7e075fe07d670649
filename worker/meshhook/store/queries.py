"""The statements in `sql/`, one a file, with the names of a queue's tables filled in.

This is the only place where SQL is put together from text. The names are checked first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources

from meshhook.names import dead_letter_queue_name, validate_key_path, validate_queue_name

_OPTIONAL = re.compile(r"\{(breakers|links|kept|lz4|budget)\}(.*?)\{/\1\}", re.DOTALL)
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
_BAND_SQL = """select q.msg_id, q.vt, q.read_ct, q.headers, q.enqueued_at
    from {{queue_table}} q
    where (meshhook.priority_of(q.headers), q.vt)
            >= ({band}, (select b.from_vt from bounds b where b.band = {band}))
      and (meshhook.priority_of(q.headers), q.vt)
            <= ({band}, (select b.to_vt from bounds b where b.band = {band}))
      and $9::int >= {band}
      and q.msg_id <> all (array(select a.msg_id from aged a where a.place <= $8::int))
    order by meshhook.priority_of(q.headers), q.vt
    limit greatest($3::int{taken}, 0)
    for update skip locked"""
"""What a claim of a queue with priorities looks at in one band, after what was `taken` before."""
_BANDS = ("urgent", "high", "normal", "low")
_LAST_COLUMNS = """a.queue, a.msg_id, a.outcome, a.attempt, a.run_id, a.workflow_id,
        a.project_id, a.enqueued_at, a.finished_at, a.error_type, a.error_message, a.replayed_as"""
_LAST_OF_CHUNK_SQL = """last as (
    select l.* from (select distinct chunk.msg_id from chunk) i
    cross join lateral (
        select distinct on (a.enqueued_at) {last_columns}
        from meshhook.job_attempts a
        -- Not a plain =, as in sql/claim.sql.
        where a.queue = $1::text and a.msg_id = any (array[i.msg_id])
          and a.finished_at >= coalesce($9::timestamptz, '-infinity')
        order by a.enqueued_at, a.finished_at desc, a.attempt desc
    ) l
)"""
"""The last attempts of the jobs of a `chunk` of attempts, as long as these are few."""
_RECORDED_JOBS_SQL = """select c.lowest, c.seen, j.queue, j.msg_id, j.outcome as state,
    j.attempt as attempts, j.run_id, j.workflow_id, j.project_id,
    {moment j.enqueued_at} as enqueued_at, null::timestamptz as ready_at,
    {moment j.finished_at} as finished_at, j.error_type, j.error_message, j.replayed_as
from looked_at c
left join lateral (
    select l.* from last l
    where ($4::text is null or l.workflow_id = $4::text)
      and ($5::text is null or l.project_id = $5::text)
      and ($6::text is null or l.outcome = $6::text)
      and ($8::text is null or l.error_type = $8::text)
      and ($10::timestamptz is null or l.finished_at < $10::timestamptz)
    order by l.enqueued_at desc nulls last, l.msg_id desc
    limit $7::int
) j on true"""
"""Of the jobs with their `last` attempts those that fit, beside what was `looked_at`."""
# By default PostgreSQL looks a type's name up among temporary tables first.
_TYPE = re.compile(r"::(?=(?:text|jsonb|float8|timestamptz|regclass|oid)\b)")
_TYPE_SQL = "::pg_catalog."


_KEY_OF_HEADER_SQL = "meshhook.key_text(q.headers ->> 'x-pgmq-group'::pg_catalog.text)"
_RUNNING_SQL = "case when meshhook.has_open_attempt(q.read_ct, q.headers) then {} end"
_PLACE_SQL = "meshhook.place_in_order(q.msg_id, q.headers)"
_IN_BYTES = '({}) collate pg_catalog."C"'
_LOOKUP_SQL = "meshhook.indexed_id(q.message, '{}'::pg_catalog.text)"
_LOOKED_UP = {"run_id": "$3", "workflow_id": "$4", "project_id": "$5"}


_ERROR_TYPE_SQL = """pg_catalog.left(
        q.headers #>> '{meshhook-dead-letter,error_type}'::pg_catalog.text[], 200)"""

_PLACES = {
    "queue": "{queue_table}",
    "dead_letters": "{dlq_table}",
    "archive": "{archive_table}",
}
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
    has_later_bound: bool = False,
    key_path: str | None = None,
    lookup: str = "run_id",
    has_breakers: bool = False,
    has_links: bool = False,
    has_budget: bool = False,
    keeps_bodies: bool = False,
    prefers_lz4: bool = False,
    stored_in: str = "queue",
) -> str:
    """Return the statement `sql/<name>.sql`.

    What stands between `{breakers}` and `{/breakers}`, or between the like with `links`, `kept` or
    `lz4`, is left out unless asked for: queues that use none pay for none.
    `{utf8 TEXT}` in it becomes that text, or null where it is not UTF-8; `{moment COLUMN}` the time
    in that column, or the nearest that Python has; `{dead_letter}` what is read of a dead letter;
    `{last_of_chunk}`, `{last_columns}` and `{recorded_jobs}` the parts of searches in the history;
    `{key}` the key of a message `q`, `{running_key}` the same if it runs, else null, and `{place}`
    its place among those of its key, if they are ordered, and `{lookup}` an id of it: all as their
    indexes have them, as is `{error_type}` of a dead letter `q`. `{looked_up}` is the parameter
    that such an id is compared with. `{band 0}` is what a claim looks at in the first band of
    priorities. Types are named with their schema.

    Args:
        name: the file's name without its ending.
        tables: the queue whose tables the statement is for; None for one that names no queue.
        target: the queue that the statement moves messages to, if it moves any.
        has_later_bound: whether a keyed claim takes, as $10, from where on messages fall due later.
            Default: no.
        key_path: where in the body the key of a message is. Default: in its header.
        lookup: the id by which messages are looked up. Default `run_id`.
        has_breakers: whether a statement that records attempts tells the breakers of their keys.
            Default: no.
        has_budget: whether retries are put off that are more than the queue's budget. Default: no.
        has_links: whether such a statement does what hangs on the jobs that end, such as freeing
            unique keys. Default: no.
        stored_in: where the messages of a statement about `{stored_in}` are: queue, dead_letters or
            archive. Default: queue.
        keeps_bodies: whether such a statement keeps the bodies of jobs that end. Default: no.
        prefers_lz4: whether a statement that sends compresses with lz4, if it can. Default: no.

    Raises:
        InvalidQueueNameError: if a queue's name is not a safe one.
        InvalidSettingError: if the path is not a safe one.
    """
    wanted = {
        "breakers": has_breakers,
        "links": has_links,
        "kept": keeps_bodies,
        "lz4": prefers_lz4,
        "budget": has_budget,
    }
    text = _OPTIONAL.sub(lambda part: part[2] if wanted[part[1]] else "", _read(name))
    if tables is None:
        return text
    if isinstance(tables, str):
        tables = QueueTables(tables)
    queue = validate_queue_name(tables.queue_name)
    if target is not None:
        text = text.replace("{target_table}", f'pgmq."q_{validate_queue_name(target)}"')
    text = _UTF8.sub(r"meshhook.utf8_text(\1)" if tables.holds_any_bytes else r"\1", text)
    key = _KEY_OF_HEADER_SQL
    if key_path is not None:
        names = ",".join(validate_key_path(key_path).split("."))
        key = f"meshhook.key_text(q.message #>> '{{{names}}}'::pg_catalog.text[])"
    last_read = "last_read_at = pg_catalog.now()," if tables.has_last_read_at else ""
    later_from = "$10" if has_later_bound else "null"
    return (
        text.replace("{stored_in}", _PLACES[stored_in])
        .replace("{queue_table}", f'pgmq."q_{queue}"')
        .replace("{later_from}", f"{later_from}::pg_catalog.timestamptz")
        .replace("{archive_table}", f'pgmq."a_{queue}"')
        .replace("{dlq_table}", f'pgmq."q_{dead_letter_queue_name(queue)}"')
        .replace("{set_last_read_at}", last_read)
        .replace("{key}", _IN_BYTES.format(key))
        .replace("{error_type}", _ERROR_TYPE_SQL)
        .replace("{place}", _PLACE_SQL)
        .replace("{lookup}", _IN_BYTES.format(_LOOKUP_SQL.format(lookup)))
        .replace("{looked_up}", _LOOKED_UP[lookup])
        .replace("{running_key}", _IN_BYTES.format(_RUNNING_SQL.format(key)))
    )


def _band_sql(band: int) -> str:
    counts = ["(select pg_catalog.count(*) from aged a where a.place <= $8::int)::int"]
    counts += [f"(select pg_catalog.count(*) from {name})::int" for name in _BANDS[:band]]
    taken = "".join(f"\n        - {count}" for count in counts)
    return _BAND_SQL.format(band=band, taken=taken)


@cache
def _read(name: str) -> str:
    text = resources.files("meshhook.store").joinpath("sql", f"{name}.sql").read_text("utf-8")
    for place, sql in (
        ("{dead_letter}", _DEAD_LETTER_SQL),
        ("{last_of_chunk}", _LAST_OF_CHUNK_SQL),
        ("{recorded_jobs}", _RECORDED_JOBS_SQL),
        ("{last_columns}", _LAST_COLUMNS),
        *((f"{{band {band}}}", _band_sql(band)) for band in range(len(_BANDS))),
    ):
        text = text.replace(place, sql)
    return _TYPE.sub(_TYPE_SQL, _MOMENT.sub(_MOMENT_SQL, text))
