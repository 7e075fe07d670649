-- Enqueues finished jobs $2 of queue $1 again whose bodies are kept: each that was enqueued at the
-- time in $3 (null: the newest with its id), has key $4 (null: any) and was not replayed before
-- unless $5, with a delay of $6 seconds; $7 says to change nothing.
-- Locks: the finished jobs, skipping locked ones. Indexes: see meshhook.replay_jobs.
select r.msg_id, r.result, r.was, {moment r.at} as at, r.replayed_as
from meshhook.replay_jobs($1::text, $2::bigint[], $3::timestamptz[], $4::text, $5::boolean,
    pg_catalog.make_interval(secs => $6::float8), $7::boolean) as r
