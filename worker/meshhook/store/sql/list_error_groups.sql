-- The error types of the dead letters, up to $1 of them: those of the newest $2 dead letters, the
-- most frequent first, then others in the order of their names; each with how many there are,
-- counted up to $3, and its first and its newest one. No row if there is none, or no index.
-- Locks: none. Index: q_<queue>_dlq_error_idx, a descent and $3 entries for each type; the primary
-- key for the newest. Comparisons are no plain =, which would let the primary key serve the order,
-- and have one side only where many rows are read, which might else be read through a bitmap.
with recursive has_index as materialized (
    select exists (
        select from pg_catalog.pg_index i
        join pg_catalog.pg_class c on c.oid = i.indexrelid
        where i.indrelid = '{dlq_table}'::regclass::oid and i.indisvalid
          and pg_catalog.right(c.relname::text, 14) = '_dlq_error_idx'
    ) as yes
), newest as materialized (
    select pg_catalog.left(
        n.headers #>> '{meshhook-dead-letter,error_type}'::text[], 200) as error_type
    from (
        select q.headers from {dlq_table} q
        where (select h.yes from has_index h)
        order by q.msg_id desc
        limit $2::int
    ) n
    where pg_catalog.pg_column_size(n.headers) <= 120000
), frequent as materialized (
    select n.error_type, pg_catalog.row_number() over (order by pg_catalog.count(*) desc) as place
    from newest n
    where n.error_type is not null
    group by n.error_type
    order by pg_catalog.count(*) desc
    limit $1::int
), walked as (
    (select {error_type} as error_type,
        1 as place
    from {dlq_table} q
    where (select h.yes from has_index h)
      and {error_type} >= ''
    order by {error_type}
    limit 1)
    union all
    select (
        select {error_type}
        from {dlq_table} q
        where {error_type} > w.error_type
        order by {error_type}
        limit 1
    ), w.place + 1
    from walked w
    where w.error_type is not null and w.place < $1::int
), types as materialized (
    select f.error_type, f.place from frequent f
    union all
    (select w.error_type, 1000000 + w.place from walked w
    where w.error_type is not null
      and not exists (select from frequent f where f.error_type = w.error_type))
    order by place
    limit $1::int
), counted as materialized (
    select t.error_type, (
        select pg_catalog.count(*) from (
            select {error_type} as error_type from {dlq_table} q
            where {error_type} >= t.error_type
            order by {error_type}
            limit $3::int
        ) c
        where c.error_type = t.error_type
    ) as count, f.msg_id as first_id, l.msg_id as sample_id
    from types t
    cross join lateral (
        select q.msg_id from {dlq_table} q
        where {error_type} >= t.error_type
          and {error_type} <= t.error_type
        order by {error_type}, q.msg_id
        limit 1
    ) f
    cross join lateral (
        select q.msg_id from {dlq_table} q
        where {error_type} >= t.error_type
          and {error_type} <= t.error_type
        order by {error_type} desc, q.msg_id desc
        limit 1
    ) l
    union all
    -- Those that another client put there, which the index has at its end.
    select null, pg_catalog.count(*), pg_catalog.min(u.msg_id), pg_catalog.max(u.msg_id)
    from (
        select {error_type} as error_type, q.msg_id from {dlq_table} q
        where (select h.yes from has_index h)
        order by {error_type} desc, q.msg_id desc
        limit $3::int
    ) u
    where u.error_type is null
    having pg_catalog.count(*) > 0
)
select case when c.error_type is not null then meshhook.shown_text(c.error_type) end as error_type,
    c.count, {moment f.enqueued_at} as first_dead_at, {moment l.enqueued_at} as last_dead_at,
    c.sample_id, case when pg_catalog.pg_column_size(l.headers) <= 120000 then
        meshhook.shown_text(pg_catalog.left(
            l.headers #>> '{meshhook-dead-letter,error_message}'::text[], 4000)) end
        as sample_message,
    c.count >= $3::int as capped
from counted c
join {dlq_table} f on f.msg_id = c.first_id
join {dlq_table} l on l.msg_id = c.sample_id
order by c.count desc, c.sample_id desc
