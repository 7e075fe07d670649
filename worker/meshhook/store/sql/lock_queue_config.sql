-- The settings of one queue, to be changed in this transaction. Locks: the row.
-- Index: queue_config_queue_key.
-- As one JSON object, which holds times that the driver cannot read.
select pg_catalog.to_jsonb(c) as config from meshhook.queue_config c
where c.queue = $1::text for update
