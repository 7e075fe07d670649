-- A message of the queue with its state now. Without a body of more than 16 MiB; of headers of more
-- than 80,000 bytes it reads no unique key and no group. Locks: none. Index: the primary key.
select q.msg_id, meshhook.message_state(q.vt, q.read_ct, q.headers) as state,
    meshhook.attempts_made(q.read_ct, q.headers) as attempts,
    meshhook.priority_of(q.headers) as priority,
    meshhook.message_id_text(q.message, 'run_id') as run_id,
    meshhook.message_id_text(q.message, 'workflow_id') as workflow_id,
    meshhook.message_id_text(q.message, 'project_id') as project_id,
    {moment q.enqueued_at} as enqueued_at, {moment q.vt} as ready_at,
    case when q.message is null then 'null' else meshhook.shown_text(b.body) end as body,
    case when pg_catalog.pg_column_size(q.headers) <= 80000
        then meshhook.shown_text(pg_catalog.left(meshhook.unique_key_of(q.headers), 200))
        end as unique_key,
    case when pg_catalog.pg_column_size(q.headers) <= 80000
        then meshhook.shown_text(pg_catalog.left(q.headers ->> 'meshhook-group'::text, 36))
        end as group_id,
    meshhook.replayed_from($2::text, q.headers) as replay_of
from {queue_table} q
cross join lateral meshhook.bounded_text(q.message, 16777216::bigint) b
where q.msg_id = $1::bigint
