-- The newest $2 attempts of queue $1 that ended in the last hour, by the minute and by outcome;
-- and whether there are more. Locks: none. Index: job_attempts_job_idx, from the highest msg_id
-- down, in the partitions of that hour.
with newest as materialized (
    select a.outcome, a.finished_at
    from meshhook.job_attempts a
    where a.queue = $1::text and a.finished_at > pg_catalog.now() - interval '1 hour'
      and a.outcome <> 'replayed'
    order by a.msg_id desc
    limit $2::int
)
select least(59, greatest(0, pg_catalog.floor(
        pg_catalog.date_part('epoch'::text, pg_catalog.now() - n.finished_at) / 60::float8))
    )::int as minutes_ago,
    pg_catalog.count(*) filter (where n.outcome = 'succeeded') as succeeded,
    pg_catalog.count(*) filter (where n.outcome in ('retried', 'lost')) as retried,
    pg_catalog.count(*) filter (where n.outcome = 'dead_lettered') as dead_lettered,
    pg_catalog.count(*) as attempts,
    (select pg_catalog.count(*) from newest) >= $2::int as capped,
    (select extract(epoch from pg_catalog.now() - pg_catalog.min(m.finished_at))::float8
     from newest m) as covered_seconds
from newest n
group by 1
order by 1
