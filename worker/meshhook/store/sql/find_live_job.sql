-- A message of the queue with its state now. Without a body of more than 16 MiB. Locks: none.
-- Index: the primary key.
select q.msg_id, meshhook.message_state(q.vt, q.read_ct, q.headers) as state,
    meshhook.attempts_made(q.read_ct, q.headers) as attempts,
    meshhook.message_id_text(q.message, 'run_id') as run_id,
    meshhook.message_id_text(q.message, 'workflow_id') as workflow_id,
    meshhook.message_id_text(q.message, 'project_id') as project_id,
    {moment q.enqueued_at} as enqueued_at, {moment q.vt} as ready_at,
    case when q.message is null then 'null' else meshhook.shown_text(b.body) end as body
from {queue_table} q
cross join lateral meshhook.bounded_text(q.message, 16777216::bigint) b
where q.msg_id = $1::bigint
