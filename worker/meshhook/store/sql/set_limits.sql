-- Sets how many jobs of a queue, and of each of its keys, run at once; workers follow.
-- Locks: the row. Index: queue_config_queue_key.
update meshhook.queue_config c set max_running = $2::int, max_running_per_key = $3::int
where c.queue = $1::text
