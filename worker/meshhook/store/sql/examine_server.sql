-- Settings of the server that decide what a crash costs, and how many connections are in use; a
-- role that may not see what sessions of others do sees whose they are. Locks: none.
select pg_catalog.pg_is_in_recovery() as is_replica, pg_catalog.current_setting('fsync') as fsync,
    pg_catalog.current_setting('full_page_writes') as full_page_writes,
    pg_catalog.current_setting('synchronous_commit') as synchronous_commit,
    (select pg_catalog.count(*) from pg_catalog.pg_stat_activity a
     where a.usesysid is not null and a.datid is not null
       and coalesce(a.backend_type, 'client backend'::text) = 'client backend'::text) as used,
    pg_catalog.current_setting('max_connections')::int
        - pg_catalog.current_setting('superuser_reserved_connections')::int as connections
