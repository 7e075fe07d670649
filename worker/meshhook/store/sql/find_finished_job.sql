-- The kept body of job $2 of queue $1 that was enqueued at $3, or no row; and whether it was
-- replayed. Without a body of more than 16 MiB. Locks: none. Index: finished_jobs_job_idx.
select case when f.message is null then 'null' else meshhook.shown_text(b.body) end as body,
    f.replayed_as, {moment f.replayed_at} as replayed_at,
    meshhook.replayed_from($1::text, f.headers) as replay_of
from (
    select k.message, k.headers, k.replayed_as, k.replayed_at
    from meshhook.finished_jobs k
    where k.queue = $1::text and k.msg_id = $2::bigint
      and k.enqueued_at is not distinct from $3::timestamptz
    order by k.finished_at desc limit 1
) f
cross join lateral meshhook.bounded_text(f.message, 16777216::bigint) b
