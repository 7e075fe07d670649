-- Of the history and of finished jobs: which of today and tomorrow, in UTC, have no partition, but
-- need one, and how many partitions no queue has kept for two days; a role that does not see the
-- settings of all queues does not look for those. Locks: none. Index: pg_inherits_parent_index.
with kinds as (
    select 'job_attempts'::text as parent, true as is_used,
        coalesce(pg_catalog.max(q.history_retention_days), 7) as days
    from meshhook.queue_config q
    union all
    select 'finished_jobs'::text, pg_catalog.count(q.keep_bodies_days) > 0,
        coalesce(pg_catalog.max(q.keep_bodies_days), 0)
    from meshhook.queue_config q
), today as (
    select (pg_catalog.now() at time zone 'UTC')::date as day
), parts as (
    select k.parent, pg_catalog.to_date(pg_catalog.right(c.relname::text, 8), 'YYYYMMDD') as day
    from kinds k
    join pg_catalog.pg_namespace n on n.nspname = 'meshhook'::name
    join pg_catalog.pg_class p on p.relnamespace = n.oid and p.relname = k.parent::name
    join pg_catalog.pg_inherits i on i.inhparent = p.oid
    join pg_catalog.pg_class c on c.oid = i.inhrelid
    where c.relname::text ~ ('^'::text || k.parent || '_[0-9]{8}$'::text)
)
select k.parent,
    array(select (t.day + n)::text from pg_catalog.generate_series(0, 1) n
        where k.is_used and not exists (
            select from parts p where p.parent = k.parent and p.day = t.day + n)
        order by n) as missing,
    o.old, o.oldest
from kinds k
cross join today t
cross join lateral (
    select pg_catalog.count(*) as old, pg_catalog.min(p.day)::text as oldest
    from parts p
    where p.parent = k.parent and p.day < t.day - k.days - 2
      and not pg_catalog.row_security_active('meshhook.queue_config'::text)) o
order by k.parent desc
