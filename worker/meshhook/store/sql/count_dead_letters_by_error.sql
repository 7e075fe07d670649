-- The error types of the newest $1 dead letters, most frequent first, up to $2 types.
-- Locks: none. Index: the primary key.
with newest as materialized (
    select d.msg_id, {moment d.enqueued_at} as enqueued_at,
        case when pg_catalog.pg_column_size(d.headers) <= 120000 then
            meshhook.shown_text(pg_catalog.left(
                d.headers #>> '{meshhook-dead-letter,error_type}'::text[], 200))
        end as error_type
    from {dlq_table} d
    order by d.msg_id desc
    limit $1::int
), grouped as materialized (
    select n.error_type, pg_catalog.count(*) as count,
        pg_catalog.min(n.enqueued_at) as first_dead_at,
        pg_catalog.max(n.enqueued_at) as last_dead_at, pg_catalog.max(n.msg_id) as sample_id
    from newest n
    group by n.error_type
    order by pg_catalog.count(*) desc, pg_catalog.max(n.msg_id) desc
    limit $2::int
)
select g.error_type, g.count, g.first_dead_at, g.last_dead_at, g.sample_id,
    (select case when pg_catalog.pg_column_size(d.headers) <= 120000 then
        meshhook.shown_text(pg_catalog.left(
            d.headers #>> '{meshhook-dead-letter,error_message}'::text[], 4000)) end
     from {dlq_table} d where d.msg_id = g.sample_id) as sample_message,
    (select pg_catalog.count(*) from newest) >= $1::int as capped
from grouped g
order by g.count desc, g.sample_id desc
