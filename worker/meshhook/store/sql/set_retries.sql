-- Sets how retries of a queue are delayed. Locks: the row. Index: queue_config_queue_key.
update meshhook.queue_config c set (retry_backoff, retry_delays_ms) = ($2::text, $3::bigint[])
where c.queue = $1::text
