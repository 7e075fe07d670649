-- Withdraws the rows of worker $1, which has stopped, for the queues $2: a trigger deletes what was
-- seen at that time. To delete takes a privilege that is one to lock the table as well.
-- Locks: these rows; cordons, the only other writer, wait for none. Index: workers_pkey.
update meshhook.workers w
set seen_at = '-infinity'
from pg_catalog.unnest($2::text[]) as item (queue)
where w.queue = item.queue and w.worker = $1::text
