-- Notes why schedule $2 of queue $1 could not be fired at $3, and that it is to be tried again in
-- $5 seconds. Locks: the row. Index: the primary key.
update meshhook.schedules s
set error = pg_catalog.left($4::text, 1000), failed_at = pg_catalog.now(),
    try_at = pg_catalog.now() + pg_catalog.make_interval(secs => $5::double precision)
where s.queue = $1::text and s.name = $2::text and s.next_at is not distinct from $3::timestamptz
