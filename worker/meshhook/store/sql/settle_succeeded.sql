-- Records a batch of attempts that succeeded, as sql/settle.sql does for every outcome, at half its
-- cost. Returns null if all leases held, else the positions of those that did.
-- Where bodies are kept, it keeps them.
-- Locks: the settled rows; with breakers then those of keys that have failures, in their order.
-- Index: the primary key of the queue's table.
with removed as (
    delete from {queue_table} q
    using unnest(
        $2::bigint[], $3::int[], $4::float8[], $5::int[], $6::float8[], $7::float8[],
        $8::text[], $9::text[], $10::text[], $11::text[]
    ) with ordinality as item (
        msg_id, read_ct, enqueued, attempt, started_at, finished_at, run_id, workflow_id,
        project_id, trace_id, position)
    -- Not a plain =, as in sql/claim.sql.
    where q.msg_id = any (array[item.msg_id]) and q.read_ct = item.read_ct
      and pg_catalog.date_part('epoch', q.enqueued_at) = item.enqueued
      and q.read_ct <> meshhook.settled_attempts(q.headers)
    returning item.*, q.enqueued_at{breakers}, {key} as key{/breakers}{kept},
        q.message, q.headers{/kept}
), recorded as (
    insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, run_id, workflow_id,
        project_id, worker, enqueued_at, started_at, finished_at, trace_id)
    select $12::text, r.msg_id, coalesce(r.attempt, r.read_ct), 'succeeded', r.run_id,
        r.workflow_id, r.project_id, $1::text, r.enqueued_at, pg_catalog.to_timestamp(r.started_at),
        least(pg_catalog.to_timestamp(r.finished_at), pg_catalog.clock_timestamp()), r.trace_id
    from removed r
){kept}, kept as (
    insert into meshhook.finished_jobs
        (queue, msg_id, enqueued_at, finished_at, outcome, message, headers)
    select $12::text, r.msg_id, r.enqueued_at,
        least(pg_catalog.to_timestamp(r.finished_at), pg_catalog.clock_timestamp()), 'succeeded',
        r.message, r.headers
    from removed r
    where meshhook.is_keepable(r.message, r.headers)
){/kept}
select case when pg_catalog.count(*) < pg_catalog.cardinality($2::bigint[])
    then coalesce(pg_catalog.array_agg(position), '{}') end as positions{breakers},
    {utf8 meshhook.record_key_successes($12::text, pg_catalog.array_agg(key),
        pg_catalog.array_agg(started_at))} as closed{/breakers}
from removed
