-- The newest messages of the queue, up to $4 of run $1 and workflow $2 (null: any) among the newest
-- $3. Locks: none. Index: the primary key.
select n.msg_id, n.state, n.attempts, n.run_id, n.workflow_id, n.project_id, n.enqueued_at,
    n.ready_at
from (
    select q.msg_id, meshhook.message_state(q.vt, q.read_ct, q.headers) as state,
        q.read_ct as attempts, meshhook.message_id_text(q.message, 'run_id') as run_id,
        meshhook.message_id_text(q.message, 'workflow_id') as workflow_id,
        meshhook.message_id_text(q.message, 'project_id') as project_id,
        q.enqueued_at, q.vt as ready_at
    from {queue_table} q
    order by q.msg_id desc
    limit $3::int
) n
where ($1::text is null or n.run_id = $1::text)
  and ($2::text is null or n.workflow_id = $2::text)
order by n.msg_id desc
limit $4::int
