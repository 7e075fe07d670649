-- Holds the keys of these jobs, whose leases still hold, for so many seconds each; a key that is
-- held for longer stays so. Does nothing in a queue that is not keyed. $1 is the queue.
-- Locks: the rows of the keys, in their order. Indexes: the primary keys.
insert into meshhook.keys as k (queue, key, held_until)
select $1::text, h.key,
    pg_catalog.now() + pg_catalog.make_interval(secs => pg_catalog.max(h.seconds))
from (
    select {key} as key, item.seconds
    from unnest($2::bigint[], $3::int[], $4::float8[], $5::float8[])
            as item (msg_id, read_ct, enqueued, seconds),
        {queue_table} q
    -- Not a plain =, as in sql/claim.sql.
    where q.msg_id = any (array[item.msg_id]) and q.read_ct = item.read_ct
      and pg_catalog.date_part('epoch', q.enqueued_at) = item.enqueued
      and exists (
        select from meshhook.queue_config c where c.queue = $1::text and c.keyed)
) h
group by h.key
order by h.key
on conflict (queue, key) do update
    set held_until = greatest(k.held_until, excluded.held_until)
