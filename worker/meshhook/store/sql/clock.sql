-- Returns the time by the database's clock. Locks: none. Index: none.
select pg_catalog.clock_timestamp()
