-- The settings of one queue, to be changed in this transaction. Locks: the row.
-- Index: queue_config_pkey.
select * from meshhook.queue_config where queue_name = $1::text for update
