-- Holds the keys of these jobs, whose leases still hold, for so many seconds each, for the reasons
-- $6; infinitely many mean until it is resumed, which messages without a key do not bring about. A
-- key that is held for longer stays so. Does nothing in a queue that is not keyed. $1 is the queue.
-- Locks: the rows of the keys, in their order. Indexes: the primary keys.
insert into meshhook.keys as k (queue, key, held_until, held_at, held_by, hold_reason)
select distinct on (h.key) $1::text, h.key, h.held_until, pg_catalog.now(), 'handler', h.reason
from (
    select {key} as key, item.reason, case when item.seconds = 'infinity'::float8
        then 'infinity'::timestamptz
        else pg_catalog.now() + pg_catalog.make_interval(secs => item.seconds) end as held_until
    from unnest($2::bigint[], $3::int[], $4::float8[], $5::float8[], $6::text[])
            as item (msg_id, read_ct, enqueued, seconds, reason),
        {queue_table} q
    -- Not a plain =, as in sql/claim.sql.
    where q.msg_id = any (array[item.msg_id]) and q.read_ct = item.read_ct
      and pg_catalog.date_part('epoch', q.enqueued_at) = item.enqueued
      and exists (
        select from meshhook.queue_config c where c.queue = $1::text and c.keyed)
) h
where h.key <> '' or h.held_until < 'infinity'::timestamptz
order by h.key, h.held_until desc
on conflict (queue, key) do update
    set held_until = excluded.held_until, held_at = excluded.held_at, held_by = excluded.held_by,
        hold_reason = excluded.hold_reason
    where k.held_until is null or k.held_until < excluded.held_until
