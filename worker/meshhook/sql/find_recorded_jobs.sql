-- The newest jobs of the queues $1 that the history knows, each with its last outcome: up to $5 of
-- workflow $2 and outcome $3 (null: any), among the newest $4 rows a queue. Locks: none.
-- Index: job_attempts_job_idx, from the highest msg_id down.
select j.queue, j.msg_id, j.outcome as state, j.attempt as attempts, j.run_id, j.workflow_id,
    j.project_id, j.enqueued_at, null::timestamptz as ready_at, j.finished_at, j.error_type,
    j.error_message, j.replayed_as
from (
    select distinct on (a.queue, a.msg_id, a.enqueued_at) a.*
    from unnest($1::text[]) as wanted (queue)
    cross join lateral (
        select n.queue, n.msg_id, n.outcome, n.attempt, n.run_id, n.workflow_id, n.project_id,
            n.enqueued_at, n.finished_at, n.error_type, n.error_message, n.replayed_as
        from meshhook.job_attempts n
        where n.queue = wanted.queue
        order by n.msg_id desc
        limit $4::int
    ) a
    order by a.queue, a.msg_id, a.enqueued_at, a.finished_at desc, a.attempt desc
) j
where ($2::text is null or j.workflow_id = $2::text) and ($3::text is null or j.outcome = $3::text)
order by j.enqueued_at desc nulls last, j.msg_id desc
limit $5::int
