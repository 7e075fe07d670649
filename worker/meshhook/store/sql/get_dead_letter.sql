-- One dead letter, without a body of more than 16 MiB. Locks: none. Index: the primary key.
select {dead_letter}
from {dlq_table} d
cross join lateral meshhook.bounded_text(d.message, 16777216::bigint) b
where d.msg_id = $1::bigint
