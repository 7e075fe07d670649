-- Writes what worker $1 on host $2 does for each of its queues: one row a queue, new or renewed.
-- $12 is the newest migration that the worker's version of the library has.
-- Returns for how many seconds each is cordoned, 0 to 3600.
-- Locks: these rows; cordons, the only other writer, wait for none. Index: workers_pkey.
insert into meshhook.workers as w (queue, worker, host, concurrency, running, processed,
    busy_seconds, oldest_running_seconds, cordoned, draining, started_at, seen_at,
    schema_version)
select r.queue, $1::text, $2::text, r.concurrency, r.running, r.processed, r.busy_seconds,
    r.oldest_running_seconds, r.cordoned, $3::boolean,
    pg_catalog.now() - pg_catalog.make_interval(secs => $4::float8), pg_catalog.now(),
    $12::int
from unnest($5::text[], $6::int[], $7::int[], $8::bigint[], $9::float8[], $10::float8[],
        $11::boolean[])
    as r (queue, concurrency, running, processed, busy_seconds, oldest_running_seconds, cordoned)
on conflict (queue, worker) do update
set concurrency = excluded.concurrency, running = excluded.running,
    processed = excluded.processed, busy_seconds = excluded.busy_seconds,
    oldest_running_seconds = excluded.oldest_running_seconds, cordoned = excluded.cordoned,
    draining = excluded.draining, seen_at = excluded.seen_at
returning w.queue, case when w.cordoned_until > pg_catalog.now()
    then least(extract(epoch from w.cordoned_until - pg_catalog.now())::float8, 3600::float8)
    else 0::float8 end as cordoned_seconds
