-- One queue at one moment, counted up to $2. Locks: none. Index: q_<queue>_vt_idx.
select * from meshhook.queue_snapshot($1::text, $2::int)
