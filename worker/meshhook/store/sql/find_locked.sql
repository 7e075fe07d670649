-- Returns the positions of the leases that still hold and whose message some other transaction has
-- locked now, such as one that a handler has left open: to settle these would wait for it.
-- Locks: the other messages, for a moment. Index: the primary key of the queue's table.
with held as materialized (
    select q.msg_id, item.position
    from unnest($1::bigint[], $2::int[], $3::float8[]) with ordinality
        as item (msg_id, read_ct, enqueued, position), {queue_table} q
    -- Not a plain =, as in sql/claim.sql.
    where q.msg_id = any (array[item.msg_id]) and q.read_ct = item.read_ct
      and pg_catalog.date_part('epoch', q.enqueued_at) = item.enqueued
), free as materialized (
    select q.msg_id from held h, {queue_table} q
    where q.msg_id = any (array[h.msg_id])
    for update of q skip locked
)
select h.position from held h where h.msg_id not in (select f.msg_id from free f)
