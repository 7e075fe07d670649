-- Records the outcome of a batch of attempts, each fenced by (msg_id, read_ct), and returns the
-- positions of those whose lease still held and had no outcome yet; the rest change nothing. Deletes, retries, dead
-- letters, archives and history are one statement: all or nothing.
-- Locks: the settled rows. Index: the primary key of the queue's table.
with item as materialized (
    select * from unnest(
        $2::bigint[], $3::int[], $4::text[], $5::float8[], $6::float8[], $7::float8[],
        $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[]
    ) with ordinality as item (
        msg_id, attempt, outcome, delay_seconds, started_at, finished_at,
        run_id, workflow_id, project_id, error_type, error_message, error_stack, trace_id, position)
), removed as (
    delete from {queue_table} q using item
    where q.msg_id = item.msg_id and q.read_ct = item.attempt
      and q.read_ct <> meshhook.settled_attempts(q.headers)
      and item.outcome in ('succeeded', 'dead_lettered', 'cancelled', 'archived')
    returning item.position, q.msg_id, q.read_ct, q.enqueued_at, q.vt, item.outcome,
        case when item.outcome in ('dead_lettered', 'archived') then q.message end as message,
        case when item.outcome in ('dead_lettered', 'archived') then q.headers end as headers
), delayed as (
    update {queue_table} q
    set vt = clock_timestamp() + make_interval(secs => item.delay_seconds),
        read_ct = case item.outcome when 'snoozed' then q.read_ct - 1 else q.read_ct end,
        headers = case
            when item.outcome = 'snoozed' and q.read_ct = 1 then q.headers
            else meshhook.headers_object(q.headers) || jsonb_build_object('meshhook-settled',
                case item.outcome when 'snoozed' then q.read_ct - 1 else q.read_ct end) end
    from item
    where q.msg_id = item.msg_id and q.read_ct = item.attempt
      and q.read_ct <> meshhook.settled_attempts(q.headers)
      and item.outcome in ('retried', 'snoozed')
    returning item.position, q.msg_id, item.attempt as read_ct, q.enqueued_at, q.vt as retry_at
), dead as (
    insert into {dlq_table} (vt, message, headers)
    select clock_timestamp(), r.message,
        (meshhook.headers_object(r.headers) - 'meshhook-settled')
        || jsonb_build_object('meshhook-dead-letter', jsonb_build_object(
            'queue', $15::text, 'msg_id', r.msg_id, 'attempts', r.read_ct - (item.started_at is null)::int,
            'error_type', item.error_type, 'error_message', item.error_message,
            'error_stack', item.error_stack, 'worker', $1::text,
            'first_enqueued_at', r.enqueued_at,
            'last_started_at', to_timestamp(item.started_at), 'dead_at', now()))
    from removed r join item using (position)
    where r.outcome = 'dead_lettered'
    order by r.position
), archived as (
    insert into {archive_table} (msg_id, read_ct, enqueued_at, vt, message, headers)
    select r.msg_id, r.read_ct, r.enqueued_at, r.vt, r.message, r.headers
    from removed r where r.outcome = 'archived'
), settled as (
    select position, msg_id, read_ct, enqueued_at, null::timestamptz as retry_at from removed
    union all
    select position, msg_id, read_ct, enqueued_at, retry_at from delayed
), recorded as (
    insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, run_id, workflow_id,
        project_id, worker, enqueued_at, started_at, finished_at, error_type, error_message,
        error_stack, trace_id, retry_at)
    select $15::text, s.msg_id, s.read_ct, item.outcome, item.run_id, item.workflow_id,
        item.project_id, $1::text, s.enqueued_at, to_timestamp(item.started_at),
        least(to_timestamp(item.finished_at), clock_timestamp()), item.error_type,
        item.error_message, item.error_stack, item.trace_id, s.retry_at
    from settled s join item using (position)
)
select position from settled
