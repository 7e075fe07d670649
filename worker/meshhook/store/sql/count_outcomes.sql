-- How many of the jobs $2 of queue $1 have ended for good since $3, by their outcome. Locks: none.
-- Index: job_attempts_job_idx, in the partitions from then on.
select a.outcome, pg_catalog.count(*) as jobs
from meshhook.job_attempts a
where a.queue = $1::text and a.msg_id = any ($2::bigint[])
  and a.finished_at >= $3::timestamptz
  and a.outcome in ('succeeded', 'dead_lettered', 'cancelled', 'archived')
group by a.outcome
