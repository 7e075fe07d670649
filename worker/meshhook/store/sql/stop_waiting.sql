-- Says that nobody waits any more, so that inserts stop notifying. Locks: none.
select pg_catalog.setval(pg_catalog.to_regclass($1::text), 1)
