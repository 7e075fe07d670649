-- Writes the settings of one queue, and tells running workers. Locks: the row.
-- Index: queue_config_queue_key.
update meshhook.queue_config c set (
    visibility_timeout_seconds, max_retry_attempts, retry_backoff_base_ms, retry_backoff_max_ms,
    retry_jitter, job_timeout_seconds, dlq_enabled, dlq_retention_days, archive_retention_days,
    history_retention_days, max_payload_bytes, paused, results
) = ($2::int, $3::int, $4::bigint, $5::bigint, $6::float8, $7::float8, $8::boolean, $9::int,
     $10::int, $11::int, $12::int, $13::boolean, $14::boolean)
where c.queue = $1::text
returning pg_catalog.to_jsonb(c) as config
