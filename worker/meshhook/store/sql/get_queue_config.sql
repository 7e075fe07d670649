-- The settings of one queue, as one JSON object: a plan that is kept, also on a connection of a
-- caller's, fits whatever columns a migration adds. Locks: none. Index: queue_config_queue_key.
select pg_catalog.to_jsonb(c)::text as config from meshhook.queue_config c where c.queue = $1::text
