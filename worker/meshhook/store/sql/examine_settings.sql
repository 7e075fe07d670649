-- The settings of queues $1 (null: all), in the order of their names. Locks: none.
-- Index: queue_config_queue_key.
select c.queue, pg_catalog.to_jsonb(c) as config
from meshhook.queue_config c
where $1::text[] is null or c.queue = any ($1::text[])
order by c.queue
