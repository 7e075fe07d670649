-- Queues $1 (null: all) with jobs counted up to $2, the workers of each that are alive, how many of
-- them claim nothing, the fewest slots of one, how many slots of each are for urgent jobs, and how
-- many jobs died within the last hour, up to 1,000. Locks: none.
-- Indexes: q_<queue>_vt_idx, workers_pkey, that of final outcomes in the history.
select c.queue, s.ready + s.lost as ready, s.capped, s.oldest_ready_seconds::float8, c.paused,
    extract(epoch from pg_catalog.now() - c.updated_at)::float8 as paused_seconds,
    w.workers, w.idle_workers, w.fewest_slots,
    case when c.prioritized then c.urgent_slots else 0 end as urgent_slots,
    (select pg_catalog.count(*) from (
        select from meshhook.job_attempts a
        where a.queue = c.queue and a.outcome = 'dead_lettered'
          and a.finished_at > pg_catalog.now() - interval '1 hour'
        limit 1000) d) as recent_dead
from meshhook.queue_config c
cross join lateral meshhook.queue_snapshot(c.queue, $2::int) s
cross join lateral (
    select pg_catalog.count(*) as workers,
        pg_catalog.count(*) filter (where w.draining or w.cordoned_until > pg_catalog.now())
            as idle_workers,
        pg_catalog.min(w.concurrency) as fewest_slots
    from meshhook.workers w
    where w.queue = c.queue and w.seen_at > pg_catalog.now() - interval '30 seconds') w
where $1::text[] is null or c.queue = any ($1::text[])
order by c.queue
