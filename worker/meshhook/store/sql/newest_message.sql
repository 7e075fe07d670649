-- The greatest id of a message; 0 if there is none. What comes later has a greater one.
-- Locks: none. Index: the primary key.
select coalesce(pg_catalog.max(q.msg_id), 0) from {queue_table} q
