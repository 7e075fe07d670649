-- Returns the time, in how many seconds workers are to look at a schedule again (null: there is
-- none), and the schedules that are due, at most $1, those due longest first: without any, one row
-- with nulls. Those whose jobs this role may not enqueue are left to others.
-- Locks: none. Index: schedules_due_idx.
select pg_catalog.now() as read_at, (
        select extract(epoch from (s.try_at - pg_catalog.now()))::float8
        from meshhook.schedules s
        where not s.paused and s.try_at is not null and meshhook.may_enqueue(s.queue)
        order by s.try_at
        limit 1
    ) as wait_seconds,
    d.queue, d.name, d.cron, d.every_seconds, d.time_zone, d.missed, d.next_at, d.try_at,
    d.message_bytes
from (select) o
left join lateral (
    select s.queue, s.name, meshhook.utf8_text(s.cron) as cron, s.every_seconds,
        meshhook.utf8_text(s.time_zone) as time_zone, s.missed, s.next_at, s.try_at,
        -- Compressed, it tells little of what it costs to enqueue it.
        case when s.missed <> 'all' then 0
            when pg_catalog.pg_column_size(s.message) > 1000000
                then pg_catalog.pg_column_size(s.message)
            else pg_catalog.pg_column_size(s.message || '{}'::jsonb) end as message_bytes
    from meshhook.schedules s
    where not s.paused and s.try_at <= pg_catalog.now() and meshhook.may_enqueue(s.queue)
    order by s.try_at
    limit $1::integer
) d on true
