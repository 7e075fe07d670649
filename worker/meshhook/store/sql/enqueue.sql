-- Stores a batch of messages in order and returns their ids in that order. Locks: the new rows.
insert into {queue_table} (vt, message, headers)
select pg_catalog.clock_timestamp()
           + pg_catalog.make_interval(secs => coalesce(item.delay_seconds, 0)),
       item.message::jsonb, item.headers::jsonb
from unnest($1::text[], $2::text[], $3::double precision[])
    with ordinality as item (message, headers, delay_seconds, position)
order by item.position
returning msg_id
