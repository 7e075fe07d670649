-- Reads the demand of the queues $1, looking $2 seconds ahead for each, and says that somebody
-- waits for those of $3 for $4 seconds. Locks: none. Index: q_<queue>_vt_idx of each.
select * from meshhook.queue_demand(
    $1::pg_catalog.text[], $2::double precision[], $3::pg_catalog.text[],
    $4::double precision, $5::int)
