-- Wakes the workers that listen to channel $1: for meshhook.testing, after a change that no insert
-- tells them of. Locks: none.
select pg_catalog.pg_notify($1::text, ''::text)
