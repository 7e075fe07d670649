-- What people and programs look at: live messages, each job's whole life, queues, statistics.
-- Locks: none that others hold. Time at size: milliseconds.

-- The live messages of one queue, or of all, up to `row_limit` a queue in msg_id order.
-- A function rather than a view over the tables, since a view would keep PGMQ from dropping them.
create function meshhook.live_jobs(only_queue text default null, row_limit integer default null)
returns table (
    queue text, msg_id bigint, state text, attempts integer, run_id text, workflow_id text,
    project_id text, enqueued_at timestamptz, vt timestamptz, headers jsonb)
language plpgsql stable as $$
declare
    name text;
begin
    for name in
        select c.queue_name from meshhook.queue_config c
        where only_queue is null or c.queue_name = only_queue
        order by c.queue_name
    loop
        continue when to_regclass(format('pgmq.%I', 'q_' || name)) is null;
        return query execute format($query$
            select %L::text, q.msg_id, meshhook.message_state(q.vt, q.read_ct, q.headers),
                   q.read_ct, meshhook.message_id_text(q.message, 'run_id'),
                   meshhook.message_id_text(q.message, 'workflow_id'),
                   meshhook.message_id_text(q.message, 'project_id'),
                   q.enqueued_at, q.vt, q.headers
            from pgmq.%I q order by q.msg_id limit $1
            $query$, name, 'q_' || name) using row_limit;
    end loop;
end
$$;

-- Each job's life: its state now, and what its attempts came to. A job that is gone from its
-- queue has the outcome of its last attempt as its state.
create view meshhook.job_tracking as
with finished as (
    select distinct on (a.queue, a.msg_id, a.enqueued_at)
        a.queue, a.msg_id, a.outcome, a.attempt, a.run_id, a.workflow_id, a.project_id,
        a.enqueued_at, a.started_at, a.finished_at, a.worker, a.error_type, a.error_message,
        a.replayed_as
    from meshhook.job_attempts a
    order by a.queue, a.msg_id, a.enqueued_at, a.finished_at desc, a.attempt desc
)
select
    coalesce(l.queue, f.queue) as queue,
    coalesce(l.msg_id, f.msg_id) as msg_id,
    coalesce(l.state, f.outcome) as state,
    coalesce(l.attempts, f.attempt) as attempts,
    coalesce(l.run_id, f.run_id) as run_id,
    coalesce(l.workflow_id, f.workflow_id) as workflow_id,
    coalesce(l.project_id, f.project_id) as project_id,
    coalesce(l.enqueued_at, f.enqueued_at) as enqueued_at,
    l.vt as ready_at,
    f.started_at as last_started_at,
    f.finished_at as last_finished_at,
    f.outcome as last_outcome,
    f.worker as last_worker,
    f.error_type as last_error_type,
    f.error_message as last_error_message,
    f.replayed_as
from finished f
full join meshhook.live_jobs() l
    on l.queue = f.queue and l.msg_id = f.msg_id and l.enqueued_at = f.enqueued_at;

-- One queue at one moment. Counts stop at `count_limit` for the ready messages and at
-- `count_limit` for those that are not, so that the read is bounded whatever the depth.
-- Index: q_<queue>_vt_idx.
create function meshhook.queue_snapshot(queue_name text, count_limit integer default 10000)
returns table (
    queue text, ready bigint, scheduled bigint, running bigint, retrying bigint, lost bigint,
    capped boolean, oldest_ready_seconds double precision, oldest_message_seconds double precision,
    newest_message_seconds double precision, enqueued_total bigint, dead_letters bigint,
    dead_letters_capped boolean, oldest_dead_letter_seconds double precision, paused boolean,
    sampled_at timestamptz)
language plpgsql stable as $$
declare
    queue_table text := 'q_' || queue_name;
begin
    perform meshhook.check_queue_name(queue_name);
    if to_regclass(format('pgmq.%I', queue_table)) is null
        or to_regclass(format('pgmq.%I', queue_table || '_dlq')) is null
    then
        return;
    end if;
    return query execute format($query$
        with visible as (
            select meshhook.message_state(q.vt, q.read_ct, q.headers) as state
            from pgmq.%1$I q where q.vt <= now() order by q.vt limit $2
        ), hidden as (
            select meshhook.message_state(q.vt, q.read_ct, q.headers) as state
            from pgmq.%1$I q where q.vt > now() order by q.vt limit $2
        ), visible_count as (
            select count(*) filter (where state = 'ready') as ready,
                   count(*) filter (where state = 'lost') as lost, count(*) as n
            from visible
        ), hidden_count as (
            select count(*) filter (where state = 'scheduled') as scheduled,
                   count(*) filter (where state = 'running') as running,
                   count(*) filter (where state = 'retrying') as retrying, count(*) as n
            from hidden
        ), dead as (
            select count(*) as n from (select from pgmq.%2$I limit $2) d
        )
        select $1, v.ready, h.scheduled, h.running, h.retrying, v.lost,
               v.n >= $2 or h.n >= $2,
               coalesce(extract(epoch from now() -
                   (select q.vt from pgmq.%1$I q where q.vt <= now() order by q.vt limit 1)
               )::double precision, 0),
               extract(epoch from now() - (select q.enqueued_at from pgmq.%1$I q
                   order by q.msg_id limit 1))::double precision,
               extract(epoch from now() - (select q.enqueued_at from pgmq.%1$I q
                   order by q.msg_id desc limit 1))::double precision,
               coalesce(pg_sequence_last_value(
                   pg_get_serial_sequence(%3$L, 'msg_id')::regclass), 0),
               d.n, d.n >= $2,
               extract(epoch from now() - (select q.enqueued_at from pgmq.%2$I q
                   order by q.msg_id limit 1))::double precision,
               coalesce((select c.paused from meshhook.queue_config c where c.queue_name = $1),
                   false),
               now()
        from visible_count v, hidden_count h, dead d
        $query$, queue_table, queue_table || '_dlq', format('pgmq.%I', queue_table))
        using queue_name, count_limit;
end
$$;

create view meshhook.queue_monitoring as
select s.*
from meshhook.queue_config c
cross join lateral meshhook.queue_snapshot(c.queue_name) s;

-- What the attempts of the last 24 hours came to, a queue and an hour.
create view meshhook.job_statistics as
select
    a.queue,
    date_trunc('hour', a.finished_at, 'UTC') as hour,
    count(*) filter (where a.outcome <> 'replayed') as attempts,
    count(*) filter (where a.outcome = 'succeeded') as succeeded,
    count(*) filter (where a.outcome = 'retried') as retried,
    count(*) filter (where a.outcome = 'snoozed') as snoozed,
    count(*) filter (where a.outcome = 'dead_lettered') as dead_lettered,
    count(*) filter (where a.outcome = 'cancelled') as cancelled,
    count(*) filter (where a.outcome = 'archived') as archived,
    count(*) filter (where a.outcome = 'lost') as lost,
    count(*) filter (where a.outcome = 'replayed') as replayed,
    avg(extract(epoch from a.finished_at - a.started_at)) as mean_run_seconds,
    percentile_cont(0.5) within group (
        order by extract(epoch from a.finished_at - a.started_at)) as p50_run_seconds,
    percentile_cont(0.95) within group (
        order by extract(epoch from a.finished_at - a.started_at)) as p95_run_seconds
from meshhook.job_attempts a
where a.finished_at > now() - interval '24 hours'
group by a.queue, date_trunc('hour', a.finished_at, 'UTC');
