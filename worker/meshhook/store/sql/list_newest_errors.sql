-- What the newest $1 dead letters died of. Locks: none. Index: the primary key.
select d.msg_id as id,
    meshhook.shown_text(pg_catalog.left(
        h.headers #>> '{meshhook-dead-letter,error_type}'::text[], 200)) as error_type,
    meshhook.shown_text(pg_catalog.left(
        h.headers #>> '{meshhook-dead-letter,error_message}'::text[], 4000))
        as error_message,
    {moment d.enqueued_at} as dead_at
from {dlq_table} d
cross join lateral (
    select case when pg_catalog.pg_column_size(d.headers) <= 120000 then d.headers end
) as h (headers)
order by d.msg_id desc
limit $1::int
