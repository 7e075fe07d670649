-- Jobs of queue $1 whose last attempt had error type $8, newest first: of the next $3 attempts with
-- it, with msg_ids up to $2, those of workflow $4, project $5 and outcome $6 (null: any) whose last
-- attempt ended from $9 to before $10 (null: ever), up to $7; each with the lowest msg_id that was
-- looked at, and how many attempts were. One row without a job if there is none. Locks: none.
-- Index: job_attempts_error_idx; then job_attempts_job_idx for each job.
with chunk as materialized (
    select a.msg_id from meshhook.job_attempts a
    where a.queue = $1::text and a.error_type = $8::text
      and a.msg_id <= $2::bigint
      and a.finished_at >= coalesce($9::timestamptz, '-infinity')
      and ($10::timestamptz is null or a.finished_at < $10::timestamptz)
    order by a.msg_id desc limit $3::int
)
select c.lowest, c.seen, j.queue, j.msg_id, j.outcome as state, j.attempt as attempts,
    j.run_id, j.workflow_id, j.project_id, {moment j.enqueued_at} as enqueued_at,
    null::timestamptz as ready_at, {moment j.finished_at} as finished_at, j.error_type,
    j.error_message, j.replayed_as
from (select pg_catalog.min(msg_id) as lowest, pg_catalog.count(*) as seen from chunk) c
left join lateral (
    select l.* from (select distinct chunk.msg_id from chunk) i
    cross join lateral (
        select distinct on (a.enqueued_at) a.queue, a.msg_id, a.outcome, a.attempt, a.run_id,
            a.workflow_id, a.project_id, a.enqueued_at, a.finished_at, a.error_type,
            a.error_message, a.replayed_as
        from meshhook.job_attempts a
        -- Not a plain =, as in sql/claim.sql.
        where a.queue = $1::text and a.msg_id = any (array[i.msg_id])
          and a.finished_at >= coalesce($9::timestamptz, '-infinity')
        order by a.enqueued_at, a.finished_at desc, a.attempt desc
    ) l
    where l.error_type = $8::text
      and ($6::text is null or l.outcome = $6::text)
      and ($4::text is null or l.workflow_id = $4::text)
      and ($5::text is null or l.project_id = $5::text)
      and ($10::timestamptz is null or l.finished_at < $10::timestamptz)
    order by l.enqueued_at desc nulls last, l.msg_id desc
    limit $7::int
) j on true
