-- The queues with priorities, of which each has an index of them; of queue $1, or of all (null).
-- Locks: none. Index: queue_config_pkey, or none, the table is small.
select c.queue_name from meshhook.queue_config c
where c.prioritized and ($1::text is null or c.queue_name = $1::text)
