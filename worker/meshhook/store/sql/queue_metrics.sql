-- Every queue at one moment, counted up to $1 each, with the sizes of its archive, the history
-- and kept bodies, and whether any queue is keyed or has priorities; one row with no queue if there
-- is none.
-- Locks: none. Index: q_<queue>_vt_idx.
select m.*, meshhook.archive_bytes(m.queue) as archive_bytes, h.history_bytes,
    h.finished_bytes, h.any_is_keyed, h.any_is_prioritized
from (
    select meshhook.history_bytes() as history_bytes,
        meshhook.finished_bytes() as finished_bytes,
        exists (select from meshhook.queue_config c where c.keyed) as any_is_keyed,
        exists (select from meshhook.queue_config c where c.prioritized) as any_is_prioritized) h
left join lateral meshhook.queue_metrics($1::int) m on true
