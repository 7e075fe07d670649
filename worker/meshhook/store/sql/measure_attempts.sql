-- How long the files are that attempts of the last 60 minutes were written to: one or two days, the
-- newest first, and the time by the server's clock. `file` changes when a table is written anew, as
-- VACUUM FULL does. A day without a partition stands in the default one. Locks: none.
-- Index: none of ours.
select d.day, pg_catalog.pg_relation_filenode(p.part)::bigint as file,
    pg_catalog.pg_relation_size(p.part)
        / pg_catalog.current_setting('block_size'::text)::bigint as blocks,
    pg_catalog.date_part('epoch'::text, pg_catalog.now()) as now
from (
    select distinct pg_catalog.date_trunc('day'::text, m.at, 'UTC'::text) as day
    from (values (pg_catalog.now()),
        (pg_catalog.date_trunc('minute'::text, pg_catalog.now()) - interval '59 minutes')) as m (at)
) d
cross join lateral (
    select coalesce(
        pg_catalog.to_regclass('meshhook.job_attempts_'::text || pg_catalog.to_char(
            pg_catalog.timezone('UTC'::text, d.day), 'YYYYMMDD'::text)),
        pg_catalog.to_regclass('meshhook.job_attempts_default'::text)) as part
) p
order by d.day desc
