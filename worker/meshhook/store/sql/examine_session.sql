-- The process that runs this statement. Locks: none.
select pg_catalog.pg_backend_pid() as pid
