-- Reads the demand of the queues $1, looking $2 seconds ahead for each, and says that somebody
-- waits for those of $3 for $4 seconds. Locks: none. Index: q_<queue>_vt_idx of each.
select * from meshhook.queue_demand($1::text[], $2::float8[], $3::text[], $4::float8, $5::int)
