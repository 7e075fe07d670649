-- The attempts recorded by worker $1, oldest first. For meshhook.testing: the whole history is
-- read. Locks: none. Index: none.
select a.queue, a.msg_id, a.attempt, a.outcome, a.run_id, a.workflow_id, a.project_id,
    {moment a.enqueued_at} as enqueued_at, a.error_type, a.error_message, a.error_stack
from meshhook.job_attempts a
where a.worker = $1::text
order by a.finished_at, a.queue, a.msg_id, a.attempt
