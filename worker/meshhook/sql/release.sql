-- Gives leases back unused: the messages are ready at once, and the attempt is not spent.
-- Locks: the released rows. Index: the primary key of the queue's table.
update {queue_table} q
set vt = clock_timestamp() + make_interval(secs => $3::float8), read_ct = q.read_ct - 1
from unnest($1::bigint[], $2::int[]) as item (msg_id, attempt)
-- Not a plain =, as in sql/claim.sql.
where q.msg_id = any (array[item.msg_id]) and q.read_ct = item.attempt
  and q.read_ct <> meshhook.settled_attempts(q.headers)
returning q.msg_id
