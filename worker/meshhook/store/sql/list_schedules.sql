-- Returns schedules of queue $1 (null: of all) with the name $2 (null: any), at most $3, in the
-- order of queue and name, each with its last job. Locks: none. Indexes: the primary keys.
select s.queue, s.name, meshhook.shown_text(s.cron) as cron, s.every_seconds,
    meshhook.shown_text(s.time_zone) as time_zone,
    meshhook.shown_text(meshhook.short_text(s.message, true)) as message,
    meshhook.shown_text(s.key) as key, s.missed, s.overlap, s.paused,
    {moment s.next_at} as next_at,
    case when s.paused then 0::float8
        else greatest(extract(epoch from (pg_catalog.now() - coalesce(s.next_at,
            -- Each worker looks every ten seconds.
            s.try_at + pg_catalog.make_interval(secs => 10))))::float8, 0::float8) end
        as late_seconds,
    {moment f.fired_at} as last_fired_at, f.msg_id as last_msg_id,
    meshhook.shown_text(s.error) as error, {moment s.failed_at} as failed_at,
    {moment s.created_at} as created_at, pg_catalog.now() as read_at
from meshhook.schedules s
left join lateral (
    select f.fired_at, f.msg_id
    from meshhook.schedule_firings f
    where f.queue = s.queue and f.name = s.name and f.msg_id is not null
    order by f.due_at desc
    limit 1
) f on true
where ($1::text is null or s.queue = $1::text) and ($2::text is null or s.name = $2::text)
order by s.queue, s.name
limit $3::integer
