-- Says that somebody waits for messages of this queue, for the next $1 seconds, and returns how
-- many seconds remain until the next one falls due within that time, else null.
-- Locks: none. Index: q_<queue>_vt_idx.
select pg_catalog.setval(pg_catalog.to_regclass($2::text),
        (extract(epoch from pg_catalog.clock_timestamp()
            + pg_catalog.make_interval(secs => $1::float8)) * 1000::numeric)::bigint),
    -- Not beyond: there lie the dead entries of all that was leased lately.
    extract(epoch from (select q.vt from {queue_table} q
        where q.vt > pg_catalog.now()
          and q.vt <= pg_catalog.now() + pg_catalog.make_interval(secs => $1::float8)
        order by q.vt limit 1) - pg_catalog.clock_timestamp())::float8 as next_due_seconds
