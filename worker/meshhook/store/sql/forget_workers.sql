-- Withdraws the rows of workers that were not seen for $1 seconds, as sql/withdraw_worker.sql does.
-- Locks: these rows; what another worker deletes is skipped. Index: none, the table is small.
update meshhook.workers w
set seen_at = '-infinity'
where w.ctid = any (array(
    select gone.ctid from meshhook.workers gone
    where gone.seen_at < pg_catalog.now() - pg_catalog.make_interval(secs => $1::float8)
    for update skip locked))
