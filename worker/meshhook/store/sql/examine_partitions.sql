-- Whether the history has a partition for today and for tomorrow, in UTC. Locks: none.
select d.day, pg_catalog.to_regclass(pg_catalog.format('meshhook.%I',
    meshhook.job_attempts_partition_name(d.day))) is not null as is_there
from (select (pg_catalog.now() at time zone 'UTC')::date + n as day
    from pg_catalog.generate_series(0, 1) n) d
order by d.day
