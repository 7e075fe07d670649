-- Writes whether a queue requires encryption, and tells running workers. Locks: the row.
-- Index: queue_config_queue_key.
update meshhook.queue_config set encryption = $2::text where queue = $1::text
