-- The bands of queue $1 at one moment, counted up to $2 each; no row if it has no priorities.
-- Locks: none. Index: q_<queue>_priority_idx.
select c.queue, w.priority, w.waiting, w.oldest_ready_seconds, w.target_seconds
from meshhook.queue_config c
cross join lateral meshhook.priority_waits(c.queue, c.priority_target_seconds, $2::int) w
where c.queue = $1::text and c.prioritized
