-- Writes how JobQueue $2, with the name $3, scales queue $1; and deletes its row of another queue,
-- and rows that nobody has written for a week. Locks: these rows. Index: the primary key; the table
-- is small.
with gone as (
    delete from meshhook.queue_scaling s
    where (s.jobqueue_uid = $2::pg_catalog.text and s.queue <> $1::pg_catalog.text)
       or (s.jobqueue_uid <> $2::pg_catalog.text
           and s.written_at < pg_catalog.now() - interval '7 days')
)
insert into meshhook.queue_scaling as s (queue, jobqueue_uid, jobqueue, deployment,
    target_age_seconds, min_replicas, max_replicas, replicas, ready_replicas, desired_replicas,
    state, reason, decided_at, scaled_at)
values ($1::pg_catalog.text, $2::pg_catalog.text, $3::pg_catalog.text, $4::pg_catalog.text,
    $5::pg_catalog.float8, $6::pg_catalog.int4, $7::pg_catalog.int4, $8::pg_catalog.int4,
    $9::pg_catalog.int4, $10::pg_catalog.int4, $11::pg_catalog.text, $12::pg_catalog.text,
    pg_catalog.now(), $13::pg_catalog.timestamptz)
on conflict (queue, jobqueue_uid) do update
set jobqueue = excluded.jobqueue, deployment = excluded.deployment,
    target_age_seconds = excluded.target_age_seconds, min_replicas = excluded.min_replicas,
    max_replicas = excluded.max_replicas, replicas = excluded.replicas,
    ready_replicas = excluded.ready_replicas, desired_replicas = excluded.desired_replicas,
    state = excluded.state, reason = excluded.reason,
    decided_at = case when s.desired_replicas is distinct from excluded.desired_replicas
        then excluded.decided_at else s.decided_at end,
    scaled_at = excluded.scaled_at, written_at = pg_catalog.now()
