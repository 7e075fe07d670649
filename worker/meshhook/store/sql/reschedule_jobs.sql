-- Lets the jobs $2 of queue $1 that wait in state $3 (null: any) run at $4, or in $5 seconds; now
-- if both are null.
-- Locks: the messages, skipping locked ones. Index: see meshhook.move_messages.
select m.msg_id, m.result, m.was, {moment m.ready_at} as at
from meshhook.move_messages($1::text, $2::bigint[],
    coalesce($4::timestamptz,
        pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => $5::float8)),
    $3::text) as m
