-- The bands of every queue with priorities at one moment, counted up to $1 each.
-- Locks: none. Index: q_<queue>_priority_idx.
select p.* from meshhook.priority_metrics($1::int) p
