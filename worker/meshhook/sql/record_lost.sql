-- Adds to the history the attempts whose lease ran out with no outcome, once each, and returns
-- them.
-- Locks: none but the new rows. Index: job_attempts_job_idx.
insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, run_id, workflow_id, project_id,
    enqueued_at, finished_at, error_type, error_message)
select $1::text, item.msg_id, lost.attempt, 'lost', item.run_id, item.workflow_id, item.project_id,
    item.enqueued_at, now(), 'LeaseLost', 'the lease ran out with no outcome'
from unnest($2::bigint[], $3::int[], $4::int[], $5::timestamptz[], $6::text[], $7::text[],
        $8::text[])
    as item (msg_id, first_lost, last_lost, enqueued_at, run_id, workflow_id, project_id)
cross join lateral generate_series(item.first_lost, item.last_lost) as lost (attempt)
where not exists (
    select from meshhook.job_attempts a
    where a.queue = $1::text and a.msg_id = item.msg_id and a.attempt = lost.attempt
      and a.enqueued_at = item.enqueued_at and a.outcome not in ('snoozed', 'replayed'))
returning attempt
