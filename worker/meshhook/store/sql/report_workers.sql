-- Writes what worker $1 on host $2 does for each of its queues: one row a queue, new or renewed.
-- Locks: these rows, which nobody else writes. Index: workers_pkey.
insert into meshhook.workers as w (queue, worker, host, concurrency, running, processed,
    busy_seconds, draining, started_at, seen_at)
select r.queue, $1::text, $2::text, r.concurrency, r.running, r.processed, r.busy_seconds,
    $3::boolean, pg_catalog.now() - pg_catalog.make_interval(secs => $4::float8), pg_catalog.now()
from unnest($5::text[], $6::int[], $7::int[], $8::bigint[], $9::float8[])
    as r (queue, concurrency, running, processed, busy_seconds)
on conflict (queue, worker) do update
set concurrency = excluded.concurrency, running = excluded.running,
    processed = excluded.processed, busy_seconds = excluded.busy_seconds,
    draining = excluded.draining, seen_at = excluded.seen_at
