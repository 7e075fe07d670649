-- Makes, or drops, the triggers with which dead letters of queue $1 hold keys.
-- Locks: see meshhook.set_block_triggers.
select meshhook.set_block_triggers($1::text, $2::boolean)
