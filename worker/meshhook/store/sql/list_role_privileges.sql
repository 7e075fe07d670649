-- What role $1 may do with what lies in the schemas meshhook and pgmq and is not its own: by grants
-- to itself, to roles that it is a member of, and to PUBLIC. Functions only where they run with
-- their owner's rights. Locks: none. Index: none, catalogs are read whole.
with item as (
    select 'schema ' || n.nspname::text as object, null::text as column_name, a.grantee,
        a.privilege_type
    from pg_catalog.pg_namespace n
    cross join lateral pg_catalog.aclexplode(n.nspacl) a
    where n.nspname in ('meshhook', 'pgmq')
      and not pg_catalog.pg_has_role($1::oid, n.nspowner, 'usage'::text)
    union all
    select 'table ' || n.nspname::text || '.' || c.relname::text, null, a.grantee, a.privilege_type
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    cross join lateral pg_catalog.aclexplode(c.relacl) a
    where n.nspname in ('meshhook', 'pgmq')
      and not pg_catalog.pg_has_role($1::oid, c.relowner, 'usage'::text)
    union all
    select 'table ' || n.nspname::text || '.' || c.relname::text, t.attname::text, a.grantee,
        a.privilege_type
    from pg_catalog.pg_attribute t
    join pg_catalog.pg_class c on c.oid = t.attrelid
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    cross join lateral pg_catalog.aclexplode(t.attacl) a
    where n.nspname in ('meshhook', 'pgmq') and not t.attisdropped
      and not pg_catalog.pg_has_role($1::oid, c.relowner, 'usage'::text)
    union all
    select 'function ' || n.nspname::text || '.' || p.proname::text || '('
            || pg_catalog.replace(pg_catalog.oidvectortypes(p.proargtypes), ', ', ',') || ')',
        null, a.grantee,
        a.privilege_type
    from pg_catalog.pg_proc p
    join pg_catalog.pg_namespace n on n.oid = p.pronamespace
    cross join lateral pg_catalog.aclexplode(
        coalesce(p.proacl, pg_catalog.acldefault('f'::"char", p.proowner))) a
    where n.nspname in ('meshhook', 'pgmq') and p.prosecdef
      and not pg_catalog.pg_has_role($1::oid, p.proowner, 'usage'::text)
)
select i.object, i.column_name, pg_catalog.lower(i.privilege_type) as privilege,
    case when i.grantee = 0::oid then 'PUBLIC' else g.rolname::text end as grantee
from item i
left join pg_catalog.pg_roles g on g.oid = i.grantee
where i.grantee = 0::oid or pg_catalog.pg_has_role($1::oid, i.grantee, 'usage'::text)
