-- How each of the jobs $2 of queue $1 ended: no outcome for one that is in its queue, no row
-- for one that left nothing. The end of an older job with the same id does not count.
-- Locks: none. Indexes: job_attempts_job_idx, the primary key of the queue's table.
select wanted.msg_id, ended.outcome, ended.attempt,
    {moment ended.finished_at} as finished_at, ended.result::text as result, ended.error_type,
    ended.error_message
from pg_catalog.unnest($2::bigint[]) as wanted (msg_id)
left join lateral (
    select q.msg_id, q.enqueued_at from {queue_table} q
    -- Not a plain =, as in sql/claim.sql.
    where q.msg_id = any (array[wanted.msg_id])
) live on true
left join lateral (
    select a.outcome, a.attempt, a.finished_at, a.result, a.error_type, a.error_message
    from meshhook.job_attempts a
    where a.queue = $1::text and a.msg_id = wanted.msg_id
      and a.outcome in ('succeeded', 'dead_lettered', 'cancelled', 'archived', 'expired')
      and (live.msg_id is null or a.enqueued_at = live.enqueued_at)
    order by a.finished_at desc
    limit 1
) ended on true
where live.msg_id is not null or ended.outcome is not null
