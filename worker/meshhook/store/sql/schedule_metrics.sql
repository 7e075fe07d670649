-- The first $1 schedules in the order of queue and name: when each is due, how late it is, what its
-- due times came to, and since when none of its jobs has succeeded (null if this role may not read
-- the history); and how many schedules there are, counted up to 100,000.
-- Locks: none. Indexes: the primary keys, job_attempts_job_idx.
select s.queue, s.name, s.paused,
    extract(epoch from s.next_at)::float8 as next_due_at,
    case when s.paused then 0
        else greatest(extract(epoch from pg_catalog.now() - coalesce(s.next_at, s.try_at)), 0)
        end::float8 as late_seconds,
    coalesce(s.every_seconds, extract(epoch from s.next_at - d.due_at))::float8
        as interval_seconds,
    extract(epoch from e.fired_at)::float8 as last_enqueued_at,
    extract(epoch from r.succeeded_at)::float8 as last_success_at,
    case when pg_catalog.num_nonnulls(r.succeeded_at, r.unsucceeded_since) > 0
        then greatest(extract(epoch from pg_catalog.now() - r.unsucceeded_since), 0)
        end::float8 as unsucceeded_seconds,
    s.enqueued_total as enqueued, s.overlapped_total as overlapped, s.missed_total as missed,
    s.failed_total as failed,
    (select pg_catalog.count(*) from (select from meshhook.schedules limit 100000) c) as known
from (
    select * from meshhook.schedules s order by s.queue, s.name limit $1::integer
) s
left join lateral (
    select f.due_at from meshhook.schedule_firings f
    where f.queue = s.queue and f.name = s.name and not f.is_manual
    order by f.due_at desc
    limit 1
) d on true
left join lateral (
    select f.fired_at from meshhook.schedule_firings f
    where f.queue = s.queue and f.name = s.name and f.msg_id is not null
    order by f.due_at desc
    limit 1
) e on true
left join lateral meshhook.schedule_results(s.queue, s.name) r on true
order by s.queue, s.name
