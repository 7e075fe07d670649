-- This database and the roles that use our schema, if their connections are limited, with how many
-- they have. Locks: none. Index: none, the catalog is read whole.
select 'database' as kind, d.datname::text as name, d.datconnlimit as most,
    (select pg_catalog.count(*) from pg_catalog.pg_stat_activity a
     where a.datid = d.oid
       and coalesce(a.backend_type, 'client backend'::text) = 'client backend'::text) as used
from pg_catalog.pg_database d
where d.datname = pg_catalog.current_database() and d.datconnlimit >= 0
union all
select 'role', r.rolname::text, r.rolconnlimit,
    (select pg_catalog.count(*) from pg_catalog.pg_stat_activity a
     where a.usesysid = r.oid
       and coalesce(a.backend_type, 'client backend'::text) = 'client backend'::text)
from pg_catalog.pg_roles r
join pg_catalog.pg_namespace n on n.nspname = 'meshhook'::name
where r.rolconnlimit >= 0 and r.rolcanlogin
  and pg_catalog.has_schema_privilege(r.oid, n.oid, 'usage'::text)
order by 1, 2
