-- The replicas that JobQueues of queues $1 (null: all) may have and have, the JobQueue that may
-- have most of them, and the server's connections: those in use, and those for all but superusers.
-- Locks: none. Index: none, there is a row a JobQueue.
select coalesce(pg_catalog.sum(s.max_replicas), 0)::bigint as most,
    coalesce(pg_catalog.sum(s.replicas), 0)::bigint as replicas,
    meshhook.shown_text((pg_catalog.array_agg(s.jobqueue order by s.max_replicas desc))[1])
        as largest,
    (select pg_catalog.count(*) from pg_catalog.pg_stat_activity a
     where a.usesysid is not null and a.datid is not null
       and coalesce(a.backend_type, 'client backend'::text) = 'client backend'::text) as used,
    pg_catalog.current_setting('max_connections')::int
        - pg_catalog.current_setting('superuser_reserved_connections')::int as connections
from meshhook.queue_scaling s
where s.written_at > pg_catalog.now() - interval '3 minutes'
  and ($1::text[] is null or s.queue = any ($1::text[]))
