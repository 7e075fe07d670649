-- The sessions that hold locks on the tables of queue $1, its wake-up or its name: those with the
-- oldest transactions first, five at the most. No pid means a prepared transaction. What this role
-- may not see of others is null. Locks: none.
select h.pid, a.application_name, a.state,
    extract(epoch from pg_catalog.clock_timestamp() - a.query_start)::float8 as query_seconds,
    extract(epoch from pg_catalog.clock_timestamp() - a.xact_start)::float8 as transaction_seconds
from (
    select distinct l.pid
    from pg_catalog.pg_locks l
    where l.granted and l.pid is distinct from pg_catalog.pg_backend_pid()
      and l.database = (
        select d.oid from pg_catalog.pg_database d
        where d.datname = pg_catalog.current_database())
      and (l.relation in (
            pg_catalog.to_regclass(pg_catalog.format('pgmq.%I', 'q_' || $1::text)),
            pg_catalog.to_regclass(pg_catalog.format('pgmq.%I', 'a_' || $1::text)),
            pg_catalog.to_regclass(pg_catalog.format('pgmq.%I', 'q_' || $1::text || '_dlq')),
            pg_catalog.to_regclass(pg_catalog.format('pgmq.%I', 'a_' || $1::text || '_dlq')),
            pg_catalog.to_regclass(pg_catalog.format('meshhook.%I', 'waiting_' || $1::text)))
        or l.locktype = 'advisory' and l.objsubid = 1
          and (l.classid::bigint << 32) | l.objid::bigint
            = pg_catalog.hashtext('meshhook.queue.' || $1::text))
) h
left join pg_catalog.pg_stat_activity a on a.pid = h.pid
order by a.xact_start nulls last, h.pid
limit 5
