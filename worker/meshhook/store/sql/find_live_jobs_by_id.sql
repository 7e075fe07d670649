-- Those of the messages $1 that are in the queue, with their state now. Locks: none.
-- Index: the primary key.
select q.msg_id, meshhook.message_state(q.vt, q.read_ct, q.headers) as state,
    meshhook.attempts_made(q.read_ct, q.headers) as attempts,
    meshhook.priority_of(q.headers) as priority,
    meshhook.message_id_text(q.message, 'run_id') as run_id,
    meshhook.message_id_text(q.message, 'workflow_id') as workflow_id,
    meshhook.message_id_text(q.message, 'project_id') as project_id,
    {moment q.enqueued_at} as enqueued_at, {moment q.vt} as ready_at
from {queue_table} q
where q.msg_id = any ($1::bigint[])
