-- The dead letters $1, newest first. Bodies of more than 64 KiB are left out, and headers that are
-- not short. Locks: none. Index: the primary key.
select {dead_letter}
from {dlq_table} d
cross join lateral meshhook.bounded_text(d.message, 65536::bigint) b
where d.msg_id = any ($1::bigint[])
order by d.msg_id desc
