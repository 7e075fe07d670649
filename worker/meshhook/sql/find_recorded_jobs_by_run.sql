-- The jobs of run $1 that the history knows, each with its last outcome, newest first: up to $6 of
-- queue $2, workflow $3 and outcome $4 (null: any), from $5 rows at the most. Locks: none.
-- Index: job_attempts_run_idx.
select j.queue, j.msg_id, j.outcome as state, j.attempt as attempts, j.run_id, j.workflow_id,
    j.project_id, j.enqueued_at, null::timestamptz as ready_at, j.finished_at, j.error_type,
    j.error_message, j.replayed_as
from (
    select distinct on (a.queue, a.msg_id, a.enqueued_at) a.*
    from (
        select n.queue, n.msg_id, n.outcome, n.attempt, n.run_id, n.workflow_id, n.project_id,
            n.enqueued_at, n.finished_at, n.error_type, n.error_message, n.replayed_as
        from meshhook.job_attempts n
        where n.run_id = $1::text and ($2::text is null or n.queue = $2::text)
        limit $5::int
    ) a
    order by a.queue, a.msg_id, a.enqueued_at, a.finished_at desc, a.attempt desc
) j
where ($3::text is null or j.workflow_id = $3::text) and ($4::text is null or j.outcome = $4::text)
order by j.enqueued_at desc nulls last, j.msg_id desc
limit $6::int
