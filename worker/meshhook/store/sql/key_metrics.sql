-- The keys of every keyed queue at one moment: how many there are, how long they wait, and what is
-- kept back, counted up to $1 for each reason. It looks at 1,000 keys of a queue at most.
-- Locks: none.
-- Indexes: q_<queue>_key_idx, q_<queue>_running_idx, q_<queue>_vt_idx, keys_pkey.
select k.* from meshhook.key_metrics($1::int) k
