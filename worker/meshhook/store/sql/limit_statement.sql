-- Lets the statements of this transaction take $1 at most, such as '2000ms'. Locks: none.
-- Index: none.
select pg_catalog.set_config('statement_timeout', $1::text, true)
