-- Sets by which ids messages of a queue are found; the database refuses it without the indexes.
-- Locks: the row. Index: queue_config_queue_key.
update meshhook.queue_config c set lookup_by = $2::text[]
where c.queue = $1::text
