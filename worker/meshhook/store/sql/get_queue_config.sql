-- The settings of one queue, as one JSON object: a plan that is kept, also on a connection of a
-- caller's, fits whatever columns a migration adds. Locks: none. Indexes: queue_config_queue_key,
-- keys_limit_idx, keys_hold_idx, keys_rate_idx, breakers_open_idx.
select (pg_catalog.to_jsonb(c) || pg_catalog.jsonb_build_object('has_key_limits'::text, exists (
    select from meshhook.keys k where k.queue = c.queue and k.max_running is not null)
        or exists (
    select from meshhook.keys k
    where k.queue = c.queue and k.held_until > pg_catalog.now())
        or exists (
    select from meshhook.keys k where k.queue = c.queue and k.max_starts is not null)
        or (c.breaker_failures is not null and exists (
    select from meshhook.breakers b where b.queue = c.queue and b.opened_at is not null))))::text
    as config
from meshhook.queue_config c where c.queue = $1::text
