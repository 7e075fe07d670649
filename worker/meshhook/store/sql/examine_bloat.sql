-- The bytes of the tables of queues $1 (null: all) and of each of their indexes, and about how many
-- rows they have, dead ones included. What is counted is lost in a crash; what vacuum noted is not.
-- Locks: ACCESS SHARE, for each size.
-- Index: pg_index_indrelid_index.
with ours as (
    select c.oid, n.nspname, c.relname, c.reltuples
    from meshhook.queue_config q
    cross join lateral (values ('q_' || q.queue), ('q_' || q.queue || '_dlq'), ('a_' || q.queue))
        as t (name)
    join pg_catalog.pg_namespace n on n.nspname = 'pgmq'
    join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = t.name::name
    where $1::text[] is null or q.queue = any ($1::text[])
), sized as (
    select o.oid, pg_catalog.format('%I.%I', o.nspname, o.relname) as name, false as is_index,
        pg_catalog.pg_relation_size(o.oid) as bytes, o.reltuples
    from ours o
    union all
    select o.oid, pg_catalog.format('%I.%I', o.nspname, x.relname), true,
        pg_catalog.pg_relation_size(x.oid), o.reltuples
    from ours o
    join pg_catalog.pg_index i on i.indrelid = o.oid and i.indisvalid
    join pg_catalog.pg_class x on x.oid = i.indexrelid
)
select s.name, s.is_index, s.bytes, greatest(s.reltuples::bigint,
    coalesce(pg_catalog.pg_stat_get_live_tuples(s.oid), 0)
    + coalesce(pg_catalog.pg_stat_get_dead_tuples(s.oid), 0)) as rows
from sized s
order by s.name
