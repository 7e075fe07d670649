-- The ids by which messages are found through an index, of queue $1 or (null) of each queue.
-- Locks: none. Index: queue_config_queue_key.
select c.queue, meshhook.indexed_ids(c.queue) as indexed_ids
from meshhook.queue_config c
where $1::text is null or c.queue = $1::text
