-- Who holds transaction ids in this database, for how long, and how many came since; and how many
-- sessions this role may not look into. Locks: none. Index: none, the server's own views.
select 'session' as kind, a.pid,
    coalesce(nullif(a.application_name, ''), a.usename::text) as name, a.state,
    extract(epoch from pg_catalog.clock_timestamp() - a.xact_start)::float8 as seconds,
    greatest(pg_catalog.age(a.backend_xmin), pg_catalog.age(a.backend_xid))::bigint as behind
from pg_catalog.pg_stat_activity a
where a.datname = pg_catalog.current_database() and a.pid <> pg_catalog.pg_backend_pid()
  and a.backend_type in ('client backend', 'parallel worker', 'background worker')
  and (a.backend_xmin is not null or a.backend_xid is not null)
union all
select 'prepared', null, p.gid, null,
    extract(epoch from pg_catalog.clock_timestamp() - p.prepared)::float8,
    pg_catalog.age(p.transaction)::bigint
from pg_catalog.pg_prepared_xacts p
where p.database = pg_catalog.current_database()
union all
select 'slot', s.active_pid, s.slot_name::text, null, null,
    greatest(pg_catalog.age(s.xmin), pg_catalog.age(s.catalog_xmin))::bigint
from pg_catalog.pg_replication_slots s
where s.xmin is not null or s.catalog_xmin is not null
union all
select 'standby', r.pid, r.application_name, r.state, null, pg_catalog.age(r.backend_xmin)::bigint
from pg_catalog.pg_stat_replication r
where r.backend_xmin is not null
union all
select 'hidden', null, null, null, null, pg_catalog.count(*)
from pg_catalog.pg_stat_activity h
where h.datname = pg_catalog.current_database() and h.query = '<insufficient privilege>'
having pg_catalog.count(*) > 0
