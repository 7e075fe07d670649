-- The newest migration that has run. Locks: none. Index: the primary key.
select coalesce(pg_catalog.max(m.version), 0)::int as newest from meshhook.migrations m
