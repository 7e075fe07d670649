-- Messages of the queue in state $5, up to $4 of run $1 and workflow $2 (null: any), among the $3
-- that have been ready longest ($6 true), or that fall due first ($6 false). Locks: none.
-- Index: q_<queue>_vt_idx.
select n.msg_id, n.state, n.attempts, n.run_id, n.workflow_id, n.project_id, n.enqueued_at,
    n.ready_at
from (
    select q.msg_id, meshhook.message_state(q.vt, q.read_ct, q.headers) as state,
        q.read_ct as attempts, meshhook.message_id_text(q.message, 'run_id') as run_id,
        meshhook.message_id_text(q.message, 'workflow_id') as workflow_id,
        meshhook.message_id_text(q.message, 'project_id') as project_id,
        q.enqueued_at, q.vt as ready_at
    from {queue_table} q
    where q.vt > case when $6::boolean then '-infinity' else now() end
      and q.vt <= case when $6::boolean then now() else 'infinity' end
    order by q.vt
    limit $3::int
) n
where n.state = $5::text
  and ($1::text is null or n.run_id = $1::text)
  and ($2::text is null or n.workflow_id = $2::text)
limit $4::int
