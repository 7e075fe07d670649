-- All messages of the queue, oldest first, with their state at this moment and not at the start of
-- the transaction. For meshhook.testing: the whole queue is read.
-- Locks: none. Index: the primary key.
select q.msg_id, q.read_ct, n.state, meshhook.attempts_made(q.read_ct, q.headers) as attempts,
    coalesce(q.message, 'null'::jsonb)::text as body, q.headers::text as headers,
    meshhook.message_id_text(q.message, 'run_id') as run_id,
    meshhook.message_id_text(q.message, 'workflow_id') as workflow_id,
    meshhook.message_id_text(q.message, 'project_id') as project_id,
    {moment q.enqueued_at} as enqueued_at, {moment q.vt} as ready_at,
    extract(epoch from n.due_in)::float8 as due_in_seconds
from {queue_table} q
cross join lateral (
    select q.vt - pg_catalog.clock_timestamp() as due_in,
        meshhook.message_state(q.vt - (pg_catalog.clock_timestamp() - pg_catalog.now()),
            q.read_ct, q.headers) as state
) n
order by q.msg_id
