-- What worker $1 has recorded, oldest first: for meshhook.testing, which runs a worker for a test.
-- Locks: none. Index: none; the history is read whole.
select a.queue, a.msg_id, a.attempt, a.outcome, a.run_id, a.workflow_id, a.project_id,
    {moment a.enqueued_at} as enqueued_at, a.error_type, a.error_message, a.error_stack
from meshhook.job_attempts a
where a.worker = $1::text
order by a.finished_at, a.queue, a.msg_id, a.attempt
