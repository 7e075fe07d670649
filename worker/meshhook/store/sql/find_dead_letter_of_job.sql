-- The newest dead letter that job $1 of the queue became, without a body of more than 16 MiB.
-- Locks: none.
-- Index: q_<queue>_dlq_origin_idx; without it the whole table is read.
select {dead_letter}
from {dlq_table} d
cross join lateral meshhook.bounded_text(d.message, 16777216::bigint) b
where pg_catalog.left(d.headers #>> '{meshhook-dead-letter,msg_id}'::text[], 20) = $1::bigint::text
order by d.msg_id desc
limit 1
