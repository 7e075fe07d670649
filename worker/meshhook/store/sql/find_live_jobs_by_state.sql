-- Messages of the queue in state $5, newest first: of those that are due ($6 true) or are not ($6
-- false) the ones of run $1, workflow $2, project $3, key $8 and priority $12 (null: any) enqueued
-- from $9 to before $10 (null: ever) with ids up to $11, up to $7. `seen` says how many there are:
-- $4 and one more means that there are more than $4, of which none was looked at. One row without a
-- job if there is none. Locks: none. Index: q_<queue>_vt_idx, which alone is read to count them.
with counted as materialized (
    select pg_catalog.count(*) as seen
    from (
        select from {queue_table} q
        where q.vt >= case when $6::boolean then '-infinity' else pg_catalog.now() end
          and q.vt <= case when $6::boolean then pg_catalog.now() else 'infinity' end
        order by q.vt
        limit $4::int + 1
    ) i
), side as materialized (
    select q.msg_id, q.vt, q.read_ct, q.headers, q.message, q.enqueued_at,
        case when $8::text is not null then {key} end as key
    from {queue_table} q
    where (select c.seen from counted c) <= $4::int
      and q.vt >= case when $6::boolean then '-infinity' else pg_catalog.now() end
      and q.vt <= case when $6::boolean then pg_catalog.now() else 'infinity' end
    order by q.vt
    limit $4::int
)
select c.seen, n.msg_id, n.state, meshhook.attempts_made(n.read_ct, n.headers) as attempts,
    meshhook.priority_of(n.headers) as priority,
    meshhook.message_id_text(n.message, 'run_id') as run_id,
    meshhook.message_id_text(n.message, 'workflow_id') as workflow_id,
    meshhook.message_id_text(n.message, 'project_id') as project_id,
    {moment n.enqueued_at} as enqueued_at, {moment n.vt} as ready_at
from counted c
left join lateral (
    select s.*, meshhook.message_state(s.vt, s.read_ct, s.headers) as state
    from side s
    where s.msg_id <= $11::bigint
      and meshhook.message_state(s.vt, s.read_ct, s.headers) = $5::text
      and ($1::text is null or meshhook.message_id_text(s.message, 'run_id') = $1::text)
      and ($2::text is null or meshhook.message_id_text(s.message, 'workflow_id') = $2::text)
      and ($3::text is null or meshhook.message_id_text(s.message, 'project_id') = $3::text)
      and ($8::text is null or s.key = $8::text)
      and ($9::timestamptz is null or s.enqueued_at >= $9::timestamptz)
      and ($10::timestamptz is null or s.enqueued_at < $10::timestamptz)
      and ($12::int is null or meshhook.priority_of(s.headers) = $12::int)
    order by s.msg_id desc
    limit $7::int
) n on true
