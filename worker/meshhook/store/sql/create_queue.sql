-- Creates or adopts a queue, one with FIFO groups if $2. Locks: see meshhook.create_queue.
select meshhook.create_queue($1::text, $2::boolean)
