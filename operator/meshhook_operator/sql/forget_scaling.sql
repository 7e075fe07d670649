-- Deletes what JobQueue $1 has written of its scaling. Locks: these rows. Index: none, the table is
-- small.
delete from meshhook.queue_scaling s where s.jobqueue_uid = $1::pg_catalog.text
