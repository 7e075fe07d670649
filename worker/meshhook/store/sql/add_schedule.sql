-- Stores schedule $2 of queue $1, or changes it, and returns whether anything was changed.
-- Locks: the row. Index: the primary key.
select meshhook.add_schedule($1::text, $2::text, cron => $3::text,
    every => pg_catalog.make_interval(secs => $4::double precision), time_zone => $5::text,
    message => $6::text::jsonb, headers => $7::text::jsonb, key => $8::text, missed => $9::text,
    overlap => $10::text, next_at => $11::timestamptz)
