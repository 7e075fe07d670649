-- Counts the workers that claim jobs, of those that have reported in the last 30 seconds, for each
-- of the queues $1.
-- Locks: none. Index: workers_pkey.
select w.queue, pg_catalog.count(*) as workers
from meshhook.workers w
where w.queue = any($1::text[]) and w.seen_at > pg_catalog.now() - interval '30 seconds'
  and not w.draining and coalesce(w.cordoned_until <= pg_catalog.now(), true)
group by w.queue
