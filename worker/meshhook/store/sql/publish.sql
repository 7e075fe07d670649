-- Stores message $2 with headers $3 and a delay of $4 seconds in each queue that is bound to topic
-- $1, and returns the queues with the ids. Locks: the new rows. Index: see meshhook.publish.
select p.queue, p.msg_id
from meshhook.publish($1::text, $2::text::jsonb, $3::text::jsonb,
    pg_catalog.make_interval(secs => $4::float8)) as p
