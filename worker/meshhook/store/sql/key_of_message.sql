-- The key of message $1. Locks: none. Index: the primary key of the queue's table.
select {utf8 k.key} as key
from (select {key} as key from {queue_table} q where q.msg_id = $1::bigint) k
