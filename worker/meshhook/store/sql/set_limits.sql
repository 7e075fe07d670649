-- Sets how many jobs of a queue, and of each of its keys, run at once, and start in a period;
-- workers follow.
-- Locks: the row. Index: queue_config_queue_key.
update meshhook.queue_config c
set (max_running, max_running_per_key, max_starts, max_starts_per_key, starts_period_seconds)
    = ($2::int, $3::int, $4::int, $5::int, $6::float8)
where c.queue = $1::text
