-- Sets how long the bodies of finished jobs of a queue are kept; makes their partitions.
-- Locks: the row, and see meshhook.create_finished_partitions. Index: queue_config_queue_key.
update meshhook.queue_config c set keep_bodies_days = $2::int
where c.queue = $1::text
