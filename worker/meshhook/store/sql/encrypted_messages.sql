-- Returns those of the messages $1 that are encrypted; with $2, all of them. Locks: none.
-- Index: the primary key.
select q.msg_id, q.message::text as body
from {queue_table} q
where q.msg_id = any ($1::bigint[]) and ($2::boolean or meshhook.is_encrypted(q.message))
order by q.msg_id
