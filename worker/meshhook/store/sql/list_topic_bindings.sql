-- The patterns by which PGMQ routes messages to queue $1, or to all queues if that is null.
-- Locks: none. Index: none; PGMQ reads all bindings at each send as well.
select b.queue_name::text as queue, b.pattern, {moment b.bound_at} as bound_at
from pgmq.topic_bindings b
where $1::text is null or b.queue_name = $1::text
order by b.queue_name, b.pattern
