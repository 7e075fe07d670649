-- What the newest $2 attempts of queue $1 came to, by the minute in which they ended, counted from
-- 1970: of the last 60 minutes, the present one being the last. Those that ended before have the
-- minute null. `capped` says whether there are more attempts, older ones of the same days among
-- them, so that no queue has more than $2 read. Locks: none. Index: job_attempts_job_idx, from the
-- highest msg_id down, in the partitions of that hour.
with newest as materialized (
    select a.outcome, a.finished_at
    from meshhook.job_attempts a
    where a.queue = $1::text and a.finished_at >= pg_catalog.date_trunc('day'::text,
        pg_catalog.date_trunc('minute'::text, pg_catalog.now()) - interval '59 minutes',
        'UTC'::text)
    order by a.msg_id desc
    limit $2::int
)
select case when n.finished_at
            >= pg_catalog.date_trunc('minute'::text, pg_catalog.now()) - interval '59 minutes'
        and n.finished_at <= pg_catalog.now()
        then pg_catalog.floor(pg_catalog.date_part('epoch'::text, n.finished_at) / 60::float8)
        end::bigint as minute,
    pg_catalog.count(*) filter (where n.outcome in ('retried', 'lost')) as retried,
    pg_catalog.count(*) filter (where n.outcome = 'dead_lettered') as dead_lettered,
    pg_catalog.count(*) filter (where n.outcome <> 'replayed') as attempts,
    (select pg_catalog.count(*) from newest) >= $2::int as capped,
    pg_catalog.date_part('epoch'::text, pg_catalog.now()) as now
from newest n
group by 1
