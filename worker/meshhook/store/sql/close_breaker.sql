-- Closes the breaker of key $2 of queue $1, and forgets its failures. Workers follow.
-- Locks: the row. Index: breakers_pkey.
with closed as (
    update meshhook.breakers b
    set failures = 0, failed_at = null, error_type = null, opened_at = null, openings = 0,
        probe_at = null
    where b.queue = $1::text and b.key = $2::text and b.failures > 0
    returning 1
)
select meshhook.audit('key.breaker_closed', $1::text,
    pg_catalog.jsonb_build_object('key', $2::text), pg_catalog.count(*))
from closed
