-- Every queue at one moment, counted up to $1 each. Locks: none. Index: q_<queue>_vt_idx.
select s.* from meshhook.queue_config c
cross join lateral meshhook.queue_snapshot(c.queue, $1::int) s
order by s.queue
