-- Those of the privileges $4 on columns $3 (null: the whole) of objects $2 that role $1 lacks, or
-- whose object is not there. A column or topics that this PGMQ does not have are not missed, and
-- neither are views before PostgreSQL 15. Locks: none. Index: pg_class_relname_nsp_index.
with wanted as (
    select w.object, w.column_name, w.privilege,
        pg_catalog.split_part(w.object, ' ', 1) as type,
        pg_catalog.split_part(pg_catalog.split_part(w.object, ' ', 2), '.', 1) as schema_name,
        pg_catalog.split_part(pg_catalog.split_part(w.object, ' ', 2), '.', 2) as name
    from unnest($2::text[], $3::text[], $4::text[])
        as w (object, column_name, privilege)
)
select w.object, w.column_name, w.privilege, c.oid is null and p.oid is null as is_absent
from wanted w
left join pg_catalog.pg_namespace n on n.nspname = w.schema_name::name
left join pg_catalog.pg_class c
    on w.type = 'table' and c.relnamespace = n.oid and c.relname = w.name::name
left join pg_catalog.pg_proc p on w.type = 'function' and p.pronamespace = n.oid
    and p.proname = pg_catalog.split_part(w.name, '(', 1)::name
    and pg_catalog.replace(pg_catalog.oidvectortypes(p.proargtypes), ', ', ',')
        = pg_catalog.split_part(pg_catalog.split_part(w.name, '(', 2), ')', 1)
left join pg_catalog.pg_attribute t
    on t.attrelid = c.oid and t.attname = w.column_name::name and not t.attisdropped
where case w.type
        when 'schema' then n.oid is null
            or not pg_catalog.has_schema_privilege($1::oid, n.oid, w.privilege)
        when 'function' then p.oid is null
            or not pg_catalog.has_function_privilege($1::oid, p.oid, w.privilege)
        else case
            when c.oid is null then w.object <> 'table pgmq.topic_bindings'::text
            when c.relkind = 'S' then
                not pg_catalog.has_sequence_privilege($1::oid, c.oid, w.privilege)
            when c.relkind = 'v' and c.reloptions is null then false
            when w.column_name is null then
                not pg_catalog.has_table_privilege($1::oid, c.oid, w.privilege)
            when t.attnum is null then false
            else not pg_catalog.has_column_privilege($1::oid, c.oid, t.attnum, w.privilege) end
    end
order by w.object, w.privilege, w.column_name
