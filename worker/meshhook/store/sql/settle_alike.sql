-- Does what sql/settle_succeeded.sql does where jobs in a row have all but their ids in common, as
-- those of a batch. $2 and $3 are the ids of the messages and the runs of all jobs, as text:
-- an array costs the driver more for each element than all else. The other parameters have one
-- element for each row of jobs; $4 and $5 are the positions of its first and last one.
-- Locks: the settled rows. Index: the primary key of the queue's table.
with ids as materialized (
    select $2::text::bigint[] as msg_ids,
        pg_catalog.string_to_array($3::text, pg_catalog.chr(31)) as run_ids
), removed as (
    delete from {queue_table} q
    using ids cross join unnest(
        $4::int[], $5::int[], $6::int[], $7::float8[], $8::int[], $9::float8[], $10::float8[],
        $11::text[], $12::text[], $13::text[]
    ) as alike (
        first, last, read_ct, enqueued, attempt, started_at, finished_at, workflow_id, project_id,
        trace_id)
    cross join lateral unnest(
        ids.msg_ids[alike.first:alike.last], ids.run_ids[alike.first:alike.last]
    ) with ordinality as item (msg_id, run_id, place)
    -- Not a plain =, as in sql/claim.sql.
    where q.msg_id = any (array[item.msg_id]) and q.read_ct = alike.read_ct
      and pg_catalog.date_part('epoch', q.enqueued_at) = alike.enqueued
      and q.read_ct <> meshhook.settled_attempts(q.headers)
    returning alike.*, item.*, q.enqueued_at
), recorded as (
    insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, run_id, workflow_id,
        project_id, worker, enqueued_at, started_at, finished_at, trace_id)
    select $14::text, r.msg_id, coalesce(r.attempt, r.read_ct), 'succeeded', r.run_id,
        r.workflow_id, r.project_id, $1::text, r.enqueued_at, pg_catalog.to_timestamp(r.started_at),
        least(pg_catalog.to_timestamp(r.finished_at), pg_catalog.clock_timestamp()), r.trace_id
    from removed r
)
select case when pg_catalog.count(*) < (select pg_catalog.cardinality(msg_ids) from ids)
    then coalesce(pg_catalog.array_agg(first + place - 1), '{}') end as positions
from removed
