-- Of each of queues $1 (null: all) the key that has been held the longest, if for $2 seconds, and
-- the one whose breaker has been open the longest, if for $3; and how many such keys there are.
-- Locks: none. Indexes: the primary keys.
with old as (
    select k.queue, k.key, true as is_hold, k.held_at as since
    from meshhook.keys k
    where k.held_until > pg_catalog.now()
      and k.held_at < pg_catalog.now() - pg_catalog.make_interval(secs => $2::float8)
    union all
    select b.queue, b.key, false, b.opened_at
    from meshhook.breakers b
    where b.opened_at < pg_catalog.now() - pg_catalog.make_interval(secs => $3::float8)
)
select distinct on (o.queue, o.is_hold) o.queue, meshhook.shown_text(o.key) as key, o.is_hold,
    extract(epoch from pg_catalog.now() - o.since)::float8 as seconds,
    pg_catalog.count(*) over (partition by o.queue, o.is_hold) as keys
from old o
where $1::text[] is null or o.queue = any ($1::text[])
order by o.queue, o.is_hold, o.since
