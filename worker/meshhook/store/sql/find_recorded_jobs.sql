-- Jobs of queue $1 that the history knows, each with its last outcome, newest first: of the next $3
-- attempts with msg_ids up to $2 those of workflow $4, project $5, outcome $6 and error type $8
-- (null: any) whose last attempt ended from $9 to before $10 (null: ever), up to $7; each with the
-- lowest msg_id that was looked at, and how many attempts were. Partitions of other days are not
-- read. One row without a job if there is none. Locks: none.
-- Index: job_attempts_job_idx, from the highest msg_id down.
with chunk as materialized (
    select a.msg_id from meshhook.job_attempts a
    where a.queue = $1::text and a.msg_id <= $2::bigint
      and a.finished_at >= coalesce($9::timestamptz, '-infinity')
      and ($10::timestamptz is null or a.finished_at < $10::timestamptz)
    order by a.msg_id desc limit $3::int
), looked_at as materialized (
    select pg_catalog.min(chunk.msg_id) as lowest, pg_catalog.count(*) as seen from chunk
), last as (
    -- All that lies between, which takes less than to look up each.
    select l.* from looked_at c
    cross join lateral (
        select distinct on (a.msg_id, a.enqueued_at) {last_columns}
        from meshhook.job_attempts a
        where a.queue = $1::text and a.msg_id >= c.lowest and a.msg_id <= $2::bigint
          and a.finished_at >= coalesce($9::timestamptz, '-infinity')
        order by a.msg_id, a.enqueued_at, a.finished_at desc, a.attempt desc
    ) l
)
{recorded_jobs}
