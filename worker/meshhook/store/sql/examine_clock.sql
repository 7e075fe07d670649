-- The time of the database, in seconds since 1970. Locks: none.
select extract(epoch from pg_catalog.clock_timestamp())::float8 as at
