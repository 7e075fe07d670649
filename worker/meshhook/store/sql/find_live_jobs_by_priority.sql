-- Messages of priority $6 of a queue with priorities, newest first: those of run $1, workflow $2,
-- project $3, state $5 and key $8 (null: any) enqueued from $9 to before $10 (null: ever) with ids
-- up to $11, up to $7. `seen` says how many of that priority were looked at: $4 and one more means
-- that there are others, and that these are not the newest. One row without a job if there is none.
-- Locks: none. Index: q_<queue>_priority_idx.
with band as materialized (
    select q.msg_id, q.vt, q.read_ct, q.headers, q.message, q.enqueued_at,
        case when $8::text is not null then {key} end as key
    from {queue_table} q
    where (meshhook.priority_of(q.headers), q.vt) >= ($6::int, '-infinity'::timestamptz)
      and (meshhook.priority_of(q.headers), q.vt) <= ($6::int, 'infinity'::timestamptz)
    order by meshhook.priority_of(q.headers), q.vt
    limit $4::int + 1
)
select c.seen, n.msg_id, n.state, meshhook.attempts_made(n.read_ct, n.headers) as attempts,
    $6::int as priority,
    meshhook.message_id_text(n.message, 'run_id') as run_id,
    meshhook.message_id_text(n.message, 'workflow_id') as workflow_id,
    meshhook.message_id_text(n.message, 'project_id') as project_id,
    {moment n.enqueued_at} as enqueued_at, {moment n.vt} as ready_at
from (select pg_catalog.count(*) as seen from band) c
left join lateral (
    select b.*, meshhook.message_state(b.vt, b.read_ct, b.headers) as state
    from band b
    where b.msg_id <= $11::bigint
      and ($5::text is null or meshhook.message_state(b.vt, b.read_ct, b.headers) = $5::text)
      and ($1::text is null or meshhook.message_id_text(b.message, 'run_id') = $1::text)
      and ($2::text is null or meshhook.message_id_text(b.message, 'workflow_id') = $2::text)
      and ($3::text is null or meshhook.message_id_text(b.message, 'project_id') = $3::text)
      and ($8::text is null or b.key = $8::text)
      and ($9::timestamptz is null or b.enqueued_at >= $9::timestamptz)
      and ($10::timestamptz is null or b.enqueued_at < $10::timestamptz)
    order by b.msg_id desc
    limit $7::int
) n on true
