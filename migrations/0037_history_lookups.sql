-- Failures in the history are found by error type and by outcome through indexes. They hold no attempt
-- that succeeded, so that successes cost nothing more.
-- Locks: SHARE on meshhook.job_attempts and its partitions: settlements wait. Time at size: each
-- attempt is read twice, about a second for 5 million.

set local search_path = pg_catalog, pg_temp;

create index job_attempts_error_idx on meshhook.job_attempts (queue, error_type, msg_id)
    where error_type is not null;

create index job_attempts_outcome_idx on meshhook.job_attempts (queue, outcome, msg_id)
    where outcome in ('dead_lettered', 'cancelled', 'archived', 'replayed');
