-- Reads those of the messages leased as ($1, $2, $3) that are short, with care: where others among
-- them took long, the claim left these out as well. Headers are '' where there are none.
-- Locks: none. Index: the primary key of the queue's table.
with found as materialized (
    select item.position, q.message, case
        when q.headers is null then ''
        when pg_catalog.clock_timestamp() > (select
            pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => 0.5)) then null
        else {utf8 meshhook.short_text(q.headers, true)} end as headers
    from rows from (pg_catalog.unnest($1::bigint[]), pg_catalog.unnest($2::int[]),
            pg_catalog.unnest($3::float8[]))
        with ordinality as item (msg_id, read_ct, enqueued, position), {queue_table} q
    -- Not a plain =, as in sql/claim.sql.
    where q.msg_id = any (array[item.msg_id]) and q.read_ct = item.read_ct
      and pg_catalog.date_part('epoch'::text, q.enqueued_at) = item.enqueued
)
select f.position, case
        when f.message is null then 'null'
        when pg_catalog.clock_timestamp() > (select
            pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => 0.5)) then null
        else {utf8 meshhook.short_text(f.message, true)} end as body, f.headers
from found f
where f.headers is not null
