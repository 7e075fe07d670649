-- Creates or adopts a queue. Locks: see meshhook.create_queue.
select meshhook.create_queue($1::text)
