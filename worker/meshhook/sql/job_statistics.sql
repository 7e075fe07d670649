-- What the attempts of the last 24 hours came to, an hour and a queue, newest first; $1 null means
-- every queue. Locks: none. Index: job_attempts_job_idx for one queue; else the newest two
-- partitions are read whole.
select s.queue, s.hour, s.attempts, s.succeeded, s.retried, s.snoozed, s.dead_lettered,
    s.cancelled, s.archived, s.lost, s.replayed, s.mean_run_seconds::float8 as mean_run_seconds,
    s.p50_run_seconds::float8 as p50_run_seconds, s.p95_run_seconds::float8 as p95_run_seconds
from meshhook.job_statistics s
where $1::text is null or s.queue = $1::text
order by s.hour desc, s.queue
