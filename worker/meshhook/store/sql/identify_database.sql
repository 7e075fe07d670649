-- What tells this database from every other one, of this server or another. Locks: none.
select pg_catalog.pg_postmaster_start_time() as started_at, d.oid as database
from pg_catalog.pg_database d where d.datname = pg_catalog.current_database()
