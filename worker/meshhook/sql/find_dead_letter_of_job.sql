-- The newest dead letter that job $1 of the queue became. Locks: none.
-- Index: q_<queue>_dlq_origin_idx; without it the whole table is read.
select d.msg_id, {moment d.enqueued_at} as enqueued_at, d.message::text as body,
    d.headers::text as headers,
    meshhook.message_id_text(d.message, 'run_id') as run_id,
    meshhook.message_id_text(d.message, 'workflow_id') as workflow_id,
    meshhook.message_id_text(d.message, 'project_id') as project_id
from {dlq_table} d
where pg_catalog.left(d.headers #>> '{meshhook-dead-letter,msg_id}'::text[], 20) = $1::bigint::text
order by d.msg_id desc
limit 1
