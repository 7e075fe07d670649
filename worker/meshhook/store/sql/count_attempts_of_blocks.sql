-- What the attempts of the day that begins at $1 came to that stand in the blocks from $2 to below
-- $3, by queue and by the minute in which they ended, counted from 1970. Those that ended before
-- the second $4 have neither. Locks: none. Index: none; a scan of these blocks of the day's
-- partition, or of the default one if the day has none.
select case when a.finished_at >= pg_catalog.to_timestamp($4::float8) then a.queue end as queue,
    case when a.finished_at >= pg_catalog.to_timestamp($4::float8) then
        pg_catalog.floor(pg_catalog.date_part('epoch'::text, a.finished_at) / 60::float8)
        end::bigint as minute,
    pg_catalog.count(*) filter (where a.outcome in ('retried', 'lost')) as retried,
    pg_catalog.count(*) filter (where a.outcome = 'dead_lettered') as dead_lettered,
    pg_catalog.count(*) filter (where a.outcome <> 'replayed') as attempts
from meshhook.job_attempts a
where a.ctid >= $2::pg_catalog.tid and a.ctid < $3::pg_catalog.tid
  and a.finished_at >= $1::timestamptz and a.finished_at < $1::timestamptz + interval '24 hours'
group by 1, 2
