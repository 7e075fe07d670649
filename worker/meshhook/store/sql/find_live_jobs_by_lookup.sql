-- Messages of the queue with one of the ids $3 to $5, the one that is looked up, newest first: of
-- the next $2 with it and msg_ids up to $1 those of run $3, workflow $4, project $5, state $6, key
-- $8 and priority $11 (null: any) enqueued from $9 to before $10 (null: ever), up to $7; each with
-- the lowest msg_id that was looked at and how many were. One row without a job if there is none.
-- Locks: none.
-- Indexes: that of the id, from $1 down; then the primary key for each.
with chunk as materialized (
    select q.msg_id from {queue_table} q
    -- Not an =, with which the order would be that of the primary key as well.
    where {lookup} >= {looked_up}::text and ({lookup}, q.msg_id) <= ({looked_up}::text, $1::bigint)
    order by {lookup} desc, q.msg_id desc
    limit $2::int
)
select c.lowest, c.seen, n.msg_id, n.state, n.attempts, n.priority,
    meshhook.message_id_text(n.message, 'run_id') as run_id,
    meshhook.message_id_text(n.message, 'workflow_id') as workflow_id,
    meshhook.message_id_text(n.message, 'project_id') as project_id,
    {moment n.enqueued_at} as enqueued_at, {moment n.vt} as ready_at
from (select pg_catalog.min(msg_id) as lowest, pg_catalog.count(*) as seen from chunk) c
left join lateral (
    select q.msg_id, meshhook.message_state(q.vt, q.read_ct, q.headers) as state,
        meshhook.attempts_made(q.read_ct, q.headers) as attempts,
        meshhook.priority_of(q.headers) as priority, q.message, q.enqueued_at, q.vt
    from chunk i, {queue_table} q
    -- Not a plain =, as in sql/claim.sql.
    where q.msg_id = any (array[i.msg_id])
      and ($6::text is null or meshhook.message_state(q.vt, q.read_ct, q.headers) = $6::text)
      and ($3::text is null or meshhook.message_id_text(q.message, 'run_id') = $3::text)
      and ($4::text is null or meshhook.message_id_text(q.message, 'workflow_id') = $4::text)
      and ($5::text is null or meshhook.message_id_text(q.message, 'project_id') = $5::text)
      and ($8::text is null or {key} = $8::text)
      and ($9::timestamptz is null or q.enqueued_at >= $9::timestamptz)
      and ($10::timestamptz is null or q.enqueued_at < $10::timestamptz)
      and ($11::int is null or meshhook.priority_of(q.headers) = $11::int)
    order by q.msg_id desc
    limit $7::int
) n on true
