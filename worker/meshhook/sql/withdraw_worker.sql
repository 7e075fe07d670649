-- Deletes the rows of worker $1, which has stopped, for the queues $2.
-- Locks: these rows, which nobody else writes. Index: workers_pkey.
delete from meshhook.workers w
using unnest($2::text[]) as item (queue)
where w.queue = item.queue and w.worker = $1::text
