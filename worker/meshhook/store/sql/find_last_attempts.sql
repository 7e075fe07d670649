-- What the last attempt of each job (queue $1, msg_id $2, enqueued_at $3) came to. Locks: none.
-- Index: job_attempts_job_idx.
select item.queue, item.msg_id, item.enqueued_at, last.outcome,
    {moment last.finished_at} as finished_at, last.error_type, last.error_message
from unnest($1::text[], $2::bigint[], $3::timestamptz[]) as item (queue, msg_id, enqueued_at)
cross join lateral (
    select a.outcome, a.finished_at, a.error_type, a.error_message
    from meshhook.job_attempts a
    where a.queue = item.queue and a.msg_id = item.msg_id
      and {moment a.enqueued_at} = item.enqueued_at
    order by a.finished_at desc, a.attempt desc
    limit 1
) last
