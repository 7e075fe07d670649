-- What role $1 is and may do by itself: its attributes, the roles that it is a member of, what it
-- owns outside of the schemas meshhook and pgmq, and where it may create. Locks: none.
-- Index: pg_authid_oid_index.
select r.rolname::text as role, r.rolsuper, r.rolcreaterole, r.rolcreatedb, r.rolreplication,
    r.rolbypassrls,
    array(select g.rolname::text from pg_catalog.pg_roles g
          where g.oid <> r.oid and pg_catalog.pg_has_role(r.oid, g.oid, 'member'::text)
            and not exists (select from meshhook.roles m where m.role::oid = g.oid)
          order by 1) as member_of,
    array(select n.nspname::text from pg_catalog.pg_namespace n
          where n.nspname not in ('meshhook', 'pgmq') and n.nspname::text not like 'pg\_%'
            and pg_catalog.has_schema_privilege(r.oid, n.oid, 'create'::text)
          order by 1) as may_create_in,
    pg_catalog.has_database_privilege(r.oid, d.oid, 'create'::text) as may_create_schemas,
    array(select n.nspname::text || '.' || c.relname::text
          from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
          where c.relowner = r.oid and c.relkind in ('r', 'p', 'v', 'm', 'f')
            and n.nspname::text not like 'pg\_temp%'
          order by 1 limit 1000) as owned,
    array(select p.oid::pg_catalog.regprocedure::text from pg_catalog.pg_proc p
          where p.proowner = r.oid and p.prosecdef order by 1 limit 100) as owned_definers,
    array(select n.nspname::text from pg_catalog.pg_namespace n
          where n.nspname in ('meshhook', 'pgmq')
            and pg_catalog.pg_has_role(r.oid, n.nspowner, 'usage'::text)
          order by 1) as owned_schemas,
    array(select 'meshhook.' || c.relname::text from pg_catalog.pg_class c
          where c.relnamespace = (select n.oid from pg_catalog.pg_namespace n
                                  where n.nspname = 'meshhook')
            and c.relkind in ('r', 'p', 'v', 'S')
            and not pg_catalog.pg_has_role(r.oid, c.relowner, 'usage'::text)
          order by 1 limit 100) as others_relations
from pg_catalog.pg_roles r
join pg_catalog.pg_database d on d.datname = pg_catalog.current_database()
where r.oid = $1::oid
