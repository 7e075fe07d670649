-- Sends the jobs of the due times $4 of schedule $2 of queue $1 (or notes them as missed, if $5
-- says so), which stand for $6 more, and moves it on to $7; returns how many, and null if it was
-- not due at $3 any more. Locks: the schedule, skipping a locked one. Indexes: the primary keys.
select meshhook.fire_schedule($1::text, $2::text, $3::timestamptz, $4::timestamptz[], $5::text,
    $6::integer, $7::timestamptz)
