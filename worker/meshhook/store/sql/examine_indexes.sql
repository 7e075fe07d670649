-- Indexes of the tables of queues $1 (null: all) that are invalid and not being built, and queues
-- without an index of vt, by which claims read. Locks: none. Index: pg_index_indrelid_index.
with ours as (
    select q.queue, c.oid, c.relname
    from meshhook.queue_config q
    cross join lateral (values ('q_' || q.queue), ('q_' || q.queue || '_dlq')) as t (name)
    join pg_catalog.pg_namespace n on n.nspname = 'pgmq'
    join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = t.name::name
    where $1::text[] is null or q.queue = any ($1::text[])
)
select o.queue, pg_catalog.format('pgmq.%I', x.relname) as name, false as is_missing
from ours o
join pg_catalog.pg_index i on i.indrelid = o.oid and not i.indisvalid
join pg_catalog.pg_class x on x.oid = i.indexrelid
where not exists (
    select from pg_catalog.pg_stat_progress_create_index p where p.index_relid = i.indexrelid)
union all
select o.queue, pg_catalog.format('pgmq.%I', 'q_' || o.queue || '_vt_idx'), true
from ours o
join pg_catalog.pg_attribute a on a.attrelid = o.oid and a.attname = 'vt'
where o.relname = ('q_' || o.queue)::name and not exists (
    select from pg_catalog.pg_index i
    where i.indrelid = o.oid and i.indkey[0] = a.attnum and i.indisvalid and i.indpred is null)
order by name
