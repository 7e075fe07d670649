-- Dead letters of error type $3 with ids below $1, newest first, up to $2. Bodies of
-- more than 64 KiB are left out, and headers that are not short. Locks: none.
-- Index: q_<queue>_dlq_error_idx; without it the primary key, read until enough are found.
select {dead_letter}
from {dlq_table} d
cross join lateral meshhook.bounded_text(d.message, 65536::bigint) b
where pg_catalog.left(d.headers #>> '{meshhook-dead-letter,error_type}'::text[], 200) = $3::text
  and d.msg_id < $1::bigint
order by d.msg_id desc
limit $2::int
