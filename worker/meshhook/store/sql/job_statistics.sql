-- What the attempts of the last 24 hours came to, an hour and a queue, newest first; $1 null means
-- every queue. As the view meshhook.job_statistics, for times of any kind. Locks: none.
-- Index: job_attempts_job_idx for one queue; else the newest two partitions are read whole.
select a.queue, pg_catalog.date_trunc('hour', a.finished_at, 'UTC') as hour,
    pg_catalog.count(*) filter (where a.outcome <> 'replayed') as attempts,
    pg_catalog.count(*) filter (where a.outcome = 'succeeded') as succeeded,
    pg_catalog.count(*) filter (where a.outcome = 'retried') as retried,
    pg_catalog.count(*) filter (where a.outcome = 'snoozed') as snoozed,
    pg_catalog.count(*) filter (where a.outcome = 'dead_lettered') as dead_lettered,
    pg_catalog.count(*) filter (where a.outcome = 'cancelled') as cancelled,
    pg_catalog.count(*) filter (where a.outcome = 'archived') as archived,
    pg_catalog.count(*) filter (where a.outcome = 'expired') as expired,
    pg_catalog.count(*) filter (where a.outcome = 'lost') as lost,
    pg_catalog.count(*) filter (where a.outcome = 'replayed') as replayed,
    pg_catalog.avg(a.run_seconds) as mean_run_seconds,
    pg_catalog.percentile_cont(0.5) within group (order by a.run_seconds) as p50_run_seconds,
    pg_catalog.percentile_cont(0.95) within group (order by a.run_seconds) as p95_run_seconds
from (
    select n.queue, n.outcome, {moment n.finished_at} as finished_at,
        extract(epoch from {moment n.finished_at} - {moment n.started_at})::float8 as run_seconds
    from meshhook.job_attempts n
    where n.finished_at > pg_catalog.now() - interval '24 hours'
      and ($1::text is null or n.queue = $1::text)
) a
group by a.queue, pg_catalog.date_trunc('hour', a.finished_at, 'UTC')
order by hour desc, a.queue
