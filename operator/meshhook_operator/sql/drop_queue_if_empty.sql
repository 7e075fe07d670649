-- Drops queue $1 if it holds neither messages nor dead letters, and returns whether it is gone.
-- Locks: ACCESS EXCLUSIVE on its tables; waits for producers and workers at most as long as the
-- session's lock_timeout. Index: none.
select meshhook.drop_queue_if_empty($1::pg_catalog.text)
