-- The number of messages of the queue in each state, and in how many seconds the first of them is
-- due, without those leased as ($1 msg_id, $2 read_ct). For meshhook.testing: it reads the whole
-- queue. Locks: none. Index: none.
select meshhook.message_state(q.vt, q.read_ct, q.headers) as state,
    pg_catalog.count(*) as messages,
    extract(epoch from pg_catalog.min(q.vt) - pg_catalog.now())::float8 as due_in_seconds
from {queue_table} q
where not exists (
    select from unnest($1::bigint[], $2::int[]) as held (msg_id, read_ct)
    where held.msg_id = q.msg_id and held.read_ct = q.read_ct and q.vt > pg_catalog.now()
)
group by meshhook.message_state(q.vt, q.read_ct, q.headers)
