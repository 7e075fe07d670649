-- The workers that reported in the last $1 seconds, of one queue ($2) or of all.
-- Locks: none. Index: none, the table is small.
select w.queue, w.worker, w.host, w.concurrency, w.running, w.processed, w.busy_seconds,
    w.oldest_running_seconds, w.draining,
    w.cordoned and coalesce(w.cordoned_until > pg_catalog.now(), false) as cordoned,
    {moment w.started_at} as started_at, {moment w.seen_at} as seen_at,
    w.schema_version
from meshhook.workers w
where w.seen_at >= pg_catalog.now() - pg_catalog.make_interval(secs => $1::float8)
  and ($2::text is null or w.queue = $2::text)
order by w.queue, w.host, w.started_at, w.worker
