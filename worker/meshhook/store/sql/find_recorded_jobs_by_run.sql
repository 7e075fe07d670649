-- Jobs of run $1 that the history knows, each with its last outcome, newest first: up to $7 of
-- queue $2, workflow $3, project $4 and outcome $5 (null: any), from $6 attempts at most; `seen`
-- says how many there were. One row without a job if there is none. Locks: none.
-- Index: job_attempts_run_idx.
with attempts as materialized (
    select n.queue, n.msg_id, n.outcome, n.attempt, n.run_id, n.workflow_id, n.project_id,
        n.enqueued_at, n.finished_at, n.error_type, n.error_message, n.replayed_as
    from meshhook.job_attempts n
    where n.run_id = $1::text and ($2::text is null or n.queue = $2::text)
    limit $6::int
)
select c.seen, j.queue, j.msg_id, j.outcome as state, j.attempt as attempts, j.run_id,
    j.workflow_id, j.project_id, {moment j.enqueued_at} as enqueued_at,
    null::timestamptz as ready_at, {moment j.finished_at} as finished_at, j.error_type,
    j.error_message, j.replayed_as
from (select pg_catalog.count(*) as seen from attempts) c
left join lateral (
    select l.* from (
        select distinct on (a.queue, a.msg_id, a.enqueued_at) a.*
        from attempts a
        order by a.queue, a.msg_id, a.enqueued_at, a.finished_at desc, a.attempt desc
    ) l
    where ($3::text is null or l.workflow_id = $3::text)
      and ($4::text is null or l.project_id = $4::text)
      and ($5::text is null or l.outcome = $5::text)
    order by l.enqueued_at desc nulls last, l.msg_id desc
    limit $7::int
) j on true
