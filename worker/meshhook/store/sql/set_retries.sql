-- Sets how retries of a queue are delayed, when its jobs expire, and what follows its dead letters.
-- Locks: the row.
-- Index: queue_config_queue_key.
update meshhook.queue_config c
set (retry_backoff, retry_delays_ms, job_expiry_seconds, on_expiry, dead_letter_follow_up,
        max_retries_per_second)
    = ($2::text, $3::bigint[], $4::float8, $5::text, $6::text, $7::float8)
where c.queue = $1::text
