-- Which of the next $2 dead letters with ids from $10 to below $1 fit, newest first: of error type
-- $3, that died from $4 to before $5, of key $6, run $7, workflow $8 and project $9 (null: any).
-- One row: their ids, the lowest id that was looked at, and how many were. Locks: none.
-- Index: the primary key.
with looked_at as materialized (
    select q.msg_id, ($3::text is null or {error_type} = $3::text)
        and ($4::timestamptz is null or q.enqueued_at >= $4::timestamptz)
        and ($5::timestamptz is null or q.enqueued_at < $5::timestamptz)
        and ($6::text is null or {key} = $6::text)
        and ($7::text is null or meshhook.message_id_text(q.message, 'run_id') = $7::text)
        and ($8::text is null or meshhook.message_id_text(q.message, 'workflow_id') = $8::text)
        and ($9::text is null or meshhook.message_id_text(q.message, 'project_id') = $9::text)
        as fits
    from {dlq_table} q
    where q.msg_id < $1::bigint and q.msg_id >= $10::bigint
    order by q.msg_id desc
    limit $2::int
)
select pg_catalog.array_agg(l.msg_id order by l.msg_id desc) filter (where l.fits) as ids,
    pg_catalog.min(l.msg_id) as lowest, pg_catalog.count(*) as seen
from looked_at l
