-- The schedules of queue $1 that JobSchedules declare, with the name $2 (null: any), at most $3.
-- `content` changes when somebody changes what is declared. Locks: none. Index: the primary keys.
select s.name, s.resource, s.paused, pg_catalog.hashtextextended(pg_catalog.jsonb_build_array(
        s.cron, s.every_seconds, s.time_zone, s.message, s.headers, s.key, s.missed, s.overlap
    )::pg_catalog.text, 0) as content,
    extract(epoch from s.next_at)::pg_catalog.float8 as next_at,
    extract(epoch from f.fired_at)::pg_catalog.float8 as last_at, meshhook.shown_text(s.error) as error
from meshhook.schedules s
left join lateral (
    select f.fired_at
    from meshhook.schedule_firings f
    where f.queue = s.queue and f.name = s.name and f.msg_id is not null
    order by f.due_at desc
    limit 1
) f on true
where s.queue = $1::pg_catalog.text and s.resource is not null
  and ($2::pg_catalog.text is null or s.name = $2::pg_catalog.text)
order by s.name
limit $3::pg_catalog.int4
