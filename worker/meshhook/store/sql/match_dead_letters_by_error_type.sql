-- The same as match_dead_letters for an error type, which is never null: only dead letters of that
-- type are looked at. Locks: none.
-- Index: q_<queue>_dlq_error_idx; without it the primary key, read until enough are found. Rows are
-- compared, not the type with =, which would let the primary key serve the order.
with looked_at as materialized (
    select q.msg_id, ($4::timestamptz is null or q.enqueued_at >= $4::timestamptz)
        and ($5::timestamptz is null or q.enqueued_at < $5::timestamptz)
        and ($6::text is null or {key} = $6::text)
        and ($7::text is null or meshhook.message_id_text(q.message, 'run_id') = $7::text)
        and ($8::text is null or meshhook.message_id_text(q.message, 'workflow_id') = $8::text)
        and ($9::text is null or meshhook.message_id_text(q.message, 'project_id') = $9::text)
        as fits
    from {dlq_table} q
    where ({error_type}, q.msg_id) < ($3::text, $1::bigint)
      and ({error_type}, q.msg_id) >= ($3::text, $10::bigint)
    order by {error_type} desc, q.msg_id desc
    limit $2::int
)
select pg_catalog.array_agg(l.msg_id order by l.msg_id desc) filter (where l.fits) as ids,
    pg_catalog.min(l.msg_id) as lowest, pg_catalog.count(*) as seen
from looked_at l
