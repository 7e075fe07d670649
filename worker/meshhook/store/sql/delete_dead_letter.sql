-- Deletes one dead letter, and returns its id if it was there. Locks: its row.
-- Index: the primary key.
delete from {dlq_table} d where d.msg_id = $1::bigint returning d.msg_id
