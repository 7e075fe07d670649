-- Wakes workers that listen on channel $1. For meshhook.testing, after messages were made due.
-- Locks: none.
select pg_catalog.pg_notify($1::text, ''::text)
