-- Sets when the breakers of a queue's keys open, and for how long; workers follow.
-- Locks: the row. Index: queue_config_queue_key.
update meshhook.queue_config c
set (breaker_failures, breaker_pause_seconds, breaker_max_pause_seconds)
    = ($2::int, $3::float8, $4::float8)
where c.queue = $1::text
