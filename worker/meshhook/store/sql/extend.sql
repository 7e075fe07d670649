-- Extends leases to $4 seconds from now. Returns the positions of those that still hold, and
-- whether each was extended: one is not whose message a transaction has locked, such as that in
-- which a handler completes its job. It is not waited for: the others' leases would run out.
-- With $5 a lease that has ended does not hold: see meshhook.extend_in_turn.
-- Locks: the extended rows, skipping locked ones. Index: the primary key of the queue's table.
with held as materialized (
    select q.msg_id, item.read_ct, item.enqueued, item.position
    from unnest($1::bigint[], $2::int[], $3::float8[]) with ordinality
        as item (msg_id, read_ct, enqueued, position), {queue_table} q
    -- Not a plain =, as in sql/claim.sql.
    where q.msg_id = any (array[item.msg_id]) and q.read_ct = item.read_ct
      and pg_catalog.date_part('epoch', q.enqueued_at) = item.enqueued
      and q.read_ct <> meshhook.settled_attempts(q.headers)
      and (not $5::boolean or q.vt > pg_catalog.clock_timestamp())
), free as materialized (
    -- Asked again of the row that is locked: since the snapshot the lease may have been lost.
    select q.msg_id from held h, {queue_table} q
    where q.msg_id = any (array[h.msg_id]) and q.read_ct = h.read_ct
      and pg_catalog.date_part('epoch', q.enqueued_at) = h.enqueued
      and q.read_ct <> meshhook.settled_attempts(q.headers)
      and (not $5::boolean or q.vt > pg_catalog.clock_timestamp())
    for update of q skip locked
), extended as (
    update {queue_table} q
    set vt = pg_catalog.now() + pg_catalog.make_interval(secs => $4::float8)
    from free f
    where q.msg_id = any (array[f.msg_id])
    returning q.msg_id
)
-- A join would compare each with each: the planner settings of a worker rule out the others.
select h.position, h.msg_id in (select e.msg_id from extended e) as is_extended
from held h
