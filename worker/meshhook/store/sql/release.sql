-- Gives leases back unused: the messages are ready after $4 seconds, and the attempt is not spent.
-- Those whose message a transaction has locked run out by themselves: the others do not wait.
-- Locks: the released rows, skipping locked ones. Index: the primary key of the queue's table.
with free as materialized (
    select q.msg_id
    from unnest($1::bigint[], $2::int[], $3::float8[]) as item (msg_id, read_ct, enqueued),
        {queue_table} q
    -- Not a plain =, as in sql/claim.sql.
    where q.msg_id = any (array[item.msg_id]) and q.read_ct = item.read_ct
      and pg_catalog.date_part('epoch', q.enqueued_at) = item.enqueued
      and q.read_ct <> meshhook.settled_attempts(q.headers)
    for update of q skip locked
)
update {queue_table} q
set vt = pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => $4::float8),
    read_ct = case when meshhook.given_back(q.read_ct, q.headers) is null
        then q.read_ct - 1 else q.read_ct + 1 end,
    headers = coalesce(meshhook.given_back(q.read_ct, q.headers), q.headers)
from free f
where q.msg_id = any (array[f.msg_id])
returning q.msg_id
