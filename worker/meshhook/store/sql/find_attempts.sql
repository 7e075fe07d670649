-- What is recorded of job $2 of queue $1, newest first, up to $3 rows. Locks: none.
-- Index: job_attempts_job_idx.
select a.attempt, a.outcome, a.worker, a.run_id, a.workflow_id, a.project_id,
    {moment a.enqueued_at} as enqueued_at, {moment a.started_at} as started_at,
    {moment a.finished_at} as finished_at, a.error_type, a.error_message, a.error_stack, a.trace_id,
    {moment a.retry_at} as retry_at, a.replayed_as, a.result::text as result
from meshhook.job_attempts a
where a.queue = $1::text and a.msg_id = $2::bigint
order by a.finished_at desc, a.attempt desc
limit $3::int
