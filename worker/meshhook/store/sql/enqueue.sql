-- Stores a batch of messages in order and returns their ids in that order.
-- Locks: the new rows.{lz4}
-- The method of compression is set before the first row is formed.
with prepared as materialized (
    select meshhook.prefer_lz4() as has_lz4
){/lz4}
insert into {queue_table} (vt, message, headers)
select pg_catalog.clock_timestamp()
           + pg_catalog.make_interval(secs => coalesce(item.delay_seconds, 0)),
       item.message::jsonb, item.headers::jsonb
from unnest($1::text[], $2::text[], $3::double precision[])
    with ordinality as item (message, headers, delay_seconds, position){lz4}
where (select p.has_lz4 from prepared p) is not null{/lz4}
order by item.position
returning msg_id
