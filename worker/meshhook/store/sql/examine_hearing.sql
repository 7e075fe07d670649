-- Notifies a channel $1. Locks: none.
select pg_catalog.pg_notify($1::text, '')
