-- Deletes the rows of workers that were not seen for $1 seconds.
-- Locks: these rows; what another worker deletes is skipped. Index: none, the table is small.
delete from meshhook.workers w
where w.ctid = any (array(
    select gone.ctid from meshhook.workers gone
    where gone.seen_at < now() - make_interval(secs => $1::float8)
    for update skip locked))
