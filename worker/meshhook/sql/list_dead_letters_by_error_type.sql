-- Dead letters of error type $3 with ids below $1, newest first, up to $2. Locks: none.
-- Index: q_<queue>_dlq_error_idx; without it the primary key, read until enough are found.
select d.msg_id, {moment d.enqueued_at} as enqueued_at, d.message::text as body,
    d.headers::text as headers,
    meshhook.message_id_text(d.message, 'run_id') as run_id,
    meshhook.message_id_text(d.message, 'workflow_id') as workflow_id,
    meshhook.message_id_text(d.message, 'project_id') as project_id
from {dlq_table} d
where pg_catalog.left(d.headers #>> '{meshhook-dead-letter,error_type}'::text[], 200) = $3::text
  and d.msg_id < $1::bigint
order by d.msg_id desc
limit $2::int
