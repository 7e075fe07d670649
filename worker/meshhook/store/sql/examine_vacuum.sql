-- Dead rows of our own tables and of those of queues $1 (null: all), and what starts autovacuum.
-- Locks: none. Index: none, catalogs are read whole.
with ours as (
    select c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) as name, c.reltuples,
        c.reloptions
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.relkind = 'r' and (n.nspname = 'meshhook' and $1::text[] is null
        or n.nspname = 'pgmq' and exists (
            select from meshhook.queue_config q
            where ($1::text[] is null or q.queue = any ($1::text[]))
              and c.relname in ('q_' || q.queue, 'q_' || q.queue || '_dlq', 'a_' || q.queue)))
), told as (
    select o.*,
        (select t.option_value from pg_catalog.pg_options_to_table(o.reloptions) t
         where t.option_name = 'autovacuum_enabled') as enabled,
        (select t.option_value from pg_catalog.pg_options_to_table(o.reloptions) t
         where t.option_name = 'autovacuum_vacuum_threshold') as threshold,
        (select t.option_value from pg_catalog.pg_options_to_table(o.reloptions) t
         where t.option_name = 'autovacuum_vacuum_scale_factor') as factor
    from ours o
)
select t.name,
    pg_catalog.current_setting('autovacuum')::boolean
        and pg_catalog.current_setting('track_counts')::boolean as is_server_on,
    coalesce(t.enabled::boolean, true) as is_on,
    coalesce(pg_catalog.pg_stat_get_dead_tuples(t.oid), 0) as dead,
    coalesce(t.threshold, pg_catalog.current_setting('autovacuum_vacuum_threshold'))::float8
        + coalesce(t.factor, pg_catalog.current_setting('autovacuum_vacuum_scale_factor'))::float8
        * greatest(t.reltuples, 0)::float8 as starts_at,
    greatest(pg_catalog.pg_stat_get_last_vacuum_time(t.oid),
        pg_catalog.pg_stat_get_last_autovacuum_time(t.oid))::text as last_vacuum
from told t
order by t.name
