-- Looks at groups of queue $1 that have not ended and that nobody has looked at for $2 seconds, at
-- most $3, or only at the one named $4; returns how many. Ends those whose messages are gone.
-- Locks: the groups, skipping locked ones. Indexes: job_groups_open_idx, the primary key of the
-- queue's table, job_attempts_job_idx.
select meshhook.repair_groups($1::text, pg_catalog.make_interval(secs => $2::double precision),
    $3::integer, $4::text)
