-- Stores schedule $2 of queue $1 for JobSchedule $3, and returns which one has it: null for none,
-- if somebody made it by hand. Locks: the schedule. Index: the primary key.
select meshhook.declare_schedule($1::pg_catalog.text, $2::pg_catalog.text, $3::pg_catalog.text,
    cron => $4::pg_catalog.text, every_seconds => $5::pg_catalog.int4,
    time_zone => $6::pg_catalog.text, message => $7::pg_catalog.jsonb,
    headers => $8::pg_catalog.jsonb, key => $9::pg_catalog.text, missed => $10::pg_catalog.text,
    overlap => $11::pg_catalog.text, is_paused => $12::pg_catalog.bool,
    next_at => $13::pg_catalog.timestamptz)
