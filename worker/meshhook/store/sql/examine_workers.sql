-- The live workers of queues $1 (null: all) whose version of the library has another newest
-- migration than the database: how many, by queue and migration. Locks: none. Index: none, the
-- table is small; the primary key of the migrations.
select w.queue, w.schema_version, pg_catalog.count(*) as workers, m.newest
from meshhook.workers w
cross join (select pg_catalog.max(m.version) as newest from meshhook.migrations m) m
where w.seen_at > pg_catalog.now() - interval '30 seconds'
  and ($1::text[] is null or w.queue = any ($1::text[]))
  and w.schema_version is distinct from m.newest
group by w.queue, w.schema_version, m.newest
order by w.queue, w.schema_version nulls first
