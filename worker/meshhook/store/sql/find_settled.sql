-- Says which attempts this worker has recorded already, and as what: read after a connection broke
-- while they were being settled. A snooze gives its attempt back, so that a job may have several
-- outcomes of one attempt: they differ in when it began. Ids may come again: jobs differ in when
-- they were enqueued. Locks: none. Index: job_attempts_job_idx.
select item.position, found.outcome
from unnest($3::bigint[], $4::int[], $5::float8[], $6::float8[])
    with ordinality as item (msg_id, attempt, started_at, enqueued, position)
cross join lateral (
    select a.outcome from meshhook.job_attempts a
    where a.queue = $1::text and a.msg_id = item.msg_id and a.attempt = item.attempt
      and a.worker = $2::text
      and a.started_at is not distinct from pg_catalog.to_timestamp(item.started_at)
      and pg_catalog.date_part('epoch', a.enqueued_at) = item.enqueued
    limit 1
) as found
