-- Says whether PGMQ has a table for queue $1, whoever created it.
-- Locks: none. Index: none.
select pg_catalog.to_regclass(pg_catalog.format('pgmq.%I', 'q_' || $1::pg_catalog.text)) is not null
