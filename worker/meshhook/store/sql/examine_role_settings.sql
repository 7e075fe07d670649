-- Time limits that are set for roles which use our schema, for this database, or for the server.
-- Locks: none. Index: none, the catalog is read whole.
with limits as (
    select s.setrole, pg_catalog.split_part(o.text, '=', 1) as setting,
        pg_catalog.split_part(o.text, '=', 2) as value
    from pg_catalog.pg_db_role_setting s
    join pg_catalog.pg_database d on d.datname = pg_catalog.current_database()
    cross join lateral pg_catalog.unnest(s.setconfig) as o (text)
    where s.setdatabase in (0::oid, d.oid)
      and case when s.setrole = 0::oid then true
        else pg_catalog.has_schema_privilege(s.setrole, 'meshhook', 'usage') end
    union all
    select 0::oid, p.name, p.setting
    from pg_catalog.pg_settings p where p.source = 'configuration file'
)
select r.rolname::text as role, pg_catalog.current_database()::text as database, l.setting,
    case when l.value ~ '^[0-9]{1,12}$' then l.value::float8 / 1000::float8
        else extract(epoch from l.value::interval)::float8 end as seconds
from limits l
left join pg_catalog.pg_roles r on r.oid = l.setrole
where l.setting in ('statement_timeout', 'transaction_timeout', 'lock_timeout',
        'idle_in_transaction_session_timeout')
  and l.value ~ '^[0-9]{1,12} *(us|ms|s|min|h|d)?$'
