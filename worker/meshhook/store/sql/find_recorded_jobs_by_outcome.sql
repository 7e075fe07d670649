-- Jobs of queue $1 that ended with outcome $6 other than succeeded, newest first: of the next $3
-- attempts with it, with msg_ids up to $2, those of workflow $4, project $5 and error type $8
-- (null: any) whose last attempt ended from $9 to before $10 (null: ever), up to $7; each with the
-- lowest msg_id that was looked at, and how many attempts were. One row without a job if there is
-- none. Locks: none.
-- Indexes: job_attempts_outcome_idx or job_attempts_expired_idx; then job_attempts_job_idx for each
-- job.
with chunk as materialized (
    (select a.msg_id from meshhook.job_attempts a
    where a.queue = $1::text and a.outcome = $6::text
      and a.outcome in ('dead_lettered', 'cancelled', 'archived', 'replayed')
      and a.msg_id <= $2::bigint
      and a.finished_at >= coalesce($9::timestamptz, '-infinity')
      and ($10::timestamptz is null or a.finished_at < $10::timestamptz)
    order by a.msg_id desc limit $3::int)
    union all
    (select a.msg_id from meshhook.job_attempts a
    where a.queue = $1::text and $6::text = 'expired' and a.outcome = 'expired'
      and a.msg_id <= $2::bigint
      and a.finished_at >= coalesce($9::timestamptz, '-infinity')
      and ($10::timestamptz is null or a.finished_at < $10::timestamptz)
    order by a.msg_id desc limit $3::int)
), looked_at as materialized (
    select pg_catalog.min(chunk.msg_id) as lowest, pg_catalog.count(*) as seen from chunk
), {last_of_chunk}
{recorded_jobs}
