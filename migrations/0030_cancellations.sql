-- Cancel, reschedule and delete jobs that are in their queue: by SQL, by the library and by
-- commands. A job that waits is cancelled at once, with its row in the history. Of one that runs
-- the request is written down: workers read requests every second, stop the handler and settle the
-- job as cancelled.
-- Plain sends, claims, extensions and settlements stay as they are.
-- Locks: SHARE ROW EXCLUSIVE on meshhook.queue_config for the foreign key, for a moment.
-- Time at size: milliseconds; no queue is touched.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

create table meshhook.cancellations (
    queue text not null references meshhook.queue_config (queue_name) on delete cascade,
    msg_id bigint not null,
    enqueued_at timestamptz not null,
    requested_at timestamptz not null,
    requested_by text not null check (length(requested_by) <= 200),
    reason text check (length(reason) <= 4000),
    ended_at timestamptz,
    outcome text,
    primary key (queue, msg_id)
);

comment on table meshhook.cancellations is
    'Requests to cancel jobs that ran when it was asked. A request is for the job, whichever '
    'attempt runs; a day after the job has ended it is removed.';
comment on column meshhook.cancellations.enqueued_at is
    'With queue and msg_id the identity of the job.';
comment on column meshhook.cancellations.ended_at is
    'When it was found that the job had left its queue; null while the request is open.';
comment on column meshhook.cancellations.outcome is
    'How the job ended, as in job_attempts.outcome; null while the request is open, or if the '
    'history does not say.';

-- Nearly empty: workers read it every second.
create index cancellations_open_idx on meshhook.cancellations (queue) where ended_at is null;
create index cancellations_ended_idx on meshhook.cancellations (ended_at)
    where ended_at is not null;

alter table meshhook.cancellations enable row level security;
create policy of_visible_queues on meshhook.cancellations
    using (exists (
        select from meshhook.queue_config c where c.queue_name = cancellations.queue))
    with check (exists (
        select from meshhook.queue_config c where c.queue_name = cancellations.queue));

-- Tells workers of a request at once, where they listen.
create function meshhook.announce_cancellation() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if meshhook.may_notify() then
        perform pg_notify('meshhook_cancellations', new.queue);
    end if;
    return null;
end
$$;

create trigger announce_cancellation
    after insert or update on meshhook.cancellations
    for each row when (new.ended_at is null)
    execute function meshhook.announce_cancellation();

-- Removes requests whose job ended more than a day ago, with each new request. Who may delete from
-- a table may also lock it against everybody: so no worker may.
create function meshhook.delete_past_cancellations() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if tg_relid = 'meshhook.cancellations'::regclass then
        delete from meshhook.cancellations c
            where c.ctid = any (array(
                select p.ctid from meshhook.cancellations p
                where p.ended_at < now() - interval '1 day' limit 1000 for update skip locked));
    end if;
    return null;
end
$$;

create trigger delete_past_cancellations
    after insert on meshhook.cancellations
    for each statement execute function meshhook.delete_past_cancellations();

revoke execute on function meshhook.delete_past_cancellations() from public;

-- The state of a message at this moment, not at the start of the transaction.
create function meshhook.message_state_now(vt timestamptz, read_ct integer, headers jsonb)
returns text
language sql volatile parallel safe set search_path = pg_catalog, pg_temp as $$
    select meshhook.message_state(vt - (clock_timestamp() - now()), read_ct, headers)
$$;

-- Refuses a queue that is not there: MHQ05.
create function meshhook.check_queue(queue text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    perform meshhook.check_queue_name(queue);
    if not exists (select from meshhook.queue_config c where c.queue = check_queue.queue)
        or to_regclass(format('pgmq.%I', 'q_' || queue)) is null
    then
        raise exception using errcode = 'MHQ05',
            message = format('queue "%s" does not exist in this database', queue),
            hint = format('Create it, or adopt an existing PGMQ queue: meshhook queue create %s. '
                'A role that is for some queues only sees no others.', queue);
    end if;
end
$$;

-- Cancels messages, each of which must have been enqueued at a given time, unless that is null.
-- Those that wait are removed with a row in the history; for those that run, or that a transaction
-- has locked, a request is written. Nothing is waited for.
-- Locks: the messages and their unique keys, skipping locked ones; their groups. Indexes: the primary
-- keys, job_attempts_job_idx.
create function meshhook.cancel_messages(
    queue text, msg_ids bigint[], enqueued_ats timestamptz[], reasons text[], requested_by text,
    state text)
returns table (msg_id bigint, result text, was text, at timestamptz)
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    return query execute format($query$
        with wanted as materialized (
            select distinct on (u.msg_id) u.msg_id, u.enqueued_at, left(u.reason, 4000) as reason
            from unnest($2, $3, $4) as u (msg_id, enqueued_at, reason)
            order by u.msg_id
        ), seen as materialized (
            select q.msg_id, q.enqueued_at, w.reason,
                meshhook.message_state_now(q.vt, q.read_ct, q.headers) as state
            from wanted w, pgmq.%1$I q
            where q.msg_id = any (array[w.msg_id])
              and q.enqueued_at = coalesce(w.enqueued_at, q.enqueued_at)
        ), locked as materialized (
            -- Asked again of the row that is locked: since the snapshot it may have been claimed.
            select q.msg_id, s.reason,
                meshhook.message_state_now(q.vt, q.read_ct, q.headers) as state
            from seen s, pgmq.%1$I q
            where q.msg_id = any (array[s.msg_id]) and q.enqueued_at = s.enqueued_at
            for update of q skip locked
        ), removed as (
            delete from pgmq.%1$I q using locked l
            where q.msg_id = any (array[l.msg_id]) and l.state <> 'running'
              and ($6 is null or l.state = $6)
            returning q.msg_id, q.enqueued_at, q.message, l.reason, l.state,
                case when pg_column_size(q.headers) > 80000 then q.read_ct
                    else meshhook.attempts_made(q.read_ct, q.headers) end as attempts,
                case when pg_column_size(q.headers) <= 80000
                    then meshhook.unique_key_of(q.headers) end as unique_key,
                case when pg_column_size(q.headers) <= 80000
                    then q.headers ->> 'meshhook-group' end as group_id
        ), recorded as (
            insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, run_id, workflow_id,
                project_id, enqueued_at, finished_at, error_message)
            select $1, r.msg_id, r.attempts, 'cancelled',
                meshhook.message_id_text(r.message, 'run_id'),
                meshhook.message_id_text(r.message, 'workflow_id'),
                meshhook.message_id_text(r.message, 'project_id'),
                r.enqueued_at, clock_timestamp(), r.reason
            from removed r
        ), unlocked_keys as materialized (
            -- One that a sender has locked holds nothing once its message is gone.
            select u.key from removed r, meshhook.unique_keys u
            where u.queue = $1 and u.key = any (array[r.unique_key])
              and u.msg_id = r.msg_id and u.enqueued_at = r.enqueued_at
            for update of u skip locked
        ), freed as (
            -- A trigger deletes the row.
            update meshhook.unique_keys u set expires_at = '-infinity'
            from unlocked_keys k
            where u.queue = $1 and u.key = any (array[k.key])
        ), counted as materialized (
            select meshhook.count_ended_jobs($1, array_agg(r.group_id), array_agg(r.msg_id),
                array_agg('cancelled'::text))
            from removed r
            where r.group_id is not null
            having count(*) > 0
        ), running as materialized (
            -- What another transaction has locked is being claimed, run or settled.
            select s.msg_id, s.enqueued_at, s.reason
            from seen s left join locked l on l.msg_id = s.msg_id
            where coalesce(l.state, 'running') = 'running' and coalesce($6, 'running') = 'running'
        ), requested as (
            insert into meshhook.cancellations as c
                (queue, msg_id, enqueued_at, requested_at, requested_by, reason)
            select $1, r.msg_id, r.enqueued_at, clock_timestamp(), left($5, 200), r.reason
            from running r
            -- Without a name an open request is carried out: it stays as it is.
            where $5 is not null
            order by r.msg_id
            on conflict (queue, msg_id) do update
                set enqueued_at = excluded.enqueued_at, requested_at = excluded.requested_at,
                    requested_by = excluded.requested_by, reason = excluded.reason,
                    ended_at = null, outcome = null
                -- The first request for a job counts.
                where c.enqueued_at <> excluded.enqueued_at or c.ended_at is not null
        )
        select w.msg_id, case
                when r.msg_id is not null then 'cancelled'
                when n.msg_id is not null then 'requested'
                when s.msg_id is not null or f.outcome is not null then 'unchanged'
                else 'not_found' end,
            case when r.msg_id is not null then r.state
                when n.msg_id is not null then 'running'
                when s.msg_id is not null then coalesce(l.state, s.state)
                else f.outcome end,
            case when s.msg_id is null then f.finished_at end
        from wanted w
        left join seen s on s.msg_id = w.msg_id
        left join locked l on l.msg_id = w.msg_id
        left join removed r on r.msg_id = w.msg_id
        left join running n on n.msg_id = w.msg_id
        left join lateral meshhook.final_outcome($1, w.msg_id) f on s.msg_id is null
        -- Asked for, so that it runs.
        where (select count(*) from counted) >= 0
        order by w.msg_id
        $query$, 'q_' || queue)
        using queue, msg_ids, enqueued_ats, reasons, requested_by, state;
end
$$;

-- How the newest job with an id ended that has left its queue, by the history: no row if it does
-- not say. Locks: none. Index: job_attempts_job_idx.
create function meshhook.final_outcome(queue text, msg_id bigint)
returns table (outcome text, finished_at timestamptz)
language sql stable set search_path = pg_catalog, pg_temp as $$
    select l.outcome, l.finished_at
    from (
        select a.outcome, a.finished_at from meshhook.job_attempts a
        where a.queue = $1 and a.msg_id = $2
        order by a.finished_at desc, a.attempt desc limit 1
    ) l
    where l.outcome in ('succeeded', 'dead_lettered', 'cancelled', 'archived', 'replayed')
$$;

-- The ids of up to `max_jobs` messages of a queue that fit, the oldest first. Ids and keys are
-- those of jobs, which have 200 characters.
-- Locks: none. Index: that of the run, the workflow or the project, if the queue has it; else the
-- primary key, by which all messages are read until enough are found.
create function meshhook.matching_messages(
    queue text, run_id text, workflow_id text, project_id text, key text, state text,
    max_jobs integer)
returns bigint[]
language plpgsql stable set search_path = pg_catalog, pg_temp
-- Statistics of a queue are always old: it must read by its indexes all the same.
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
    found_ids bigint[];
    key_names text[] := (
        select string_to_array(case when c.keyed then c.key_path end, '.')
        from meshhook.queue_config c where c.queue = matching_messages.queue);
    lookup record;
    in_order text := 'q.msg_id';
    in_range text := 'true';
begin
    if num_nonnulls(run_id, workflow_id, project_id, key, state) = 0 then
        raise exception using errcode = 'MHQ08',
            message = 'name the jobs: msg_ids, run_id, workflow_id, project_id, key or state',
            hint = 'To delete all messages of a queue: meshhook queue purge';
    end if;
    if coalesce(max_jobs not between 1 and 10000, true) then
        raise exception using errcode = 'MHQ08',
            message = format('max_jobs is 1 to 10000, got %s', max_jobs),
            hint = 'Call it again for the rest.';
    end if;
    select n.name, n.place into lookup
        from unnest(array['run_id', 'workflow_id', 'project_id'],
            array[run_id, workflow_id, project_id]) with ordinality as n (name, wanted, place)
        where n.wanted is not null and n.name = any (meshhook.indexed_ids(queue))
        order by n.place limit 1;
    if found then
        in_order := format('meshhook.indexed_id(q.message, %L) collate "C"', lookup.name);
        -- Not an =, with which the order would be that of the primary key as well.
        in_range := format('%1$s >= $%2$s and %1$s <= $%2$s', in_order, lookup.place);
        in_order := in_order || ', q.msg_id';
    end if;
    execute format($query$
        select array(
            select q.msg_id from pgmq.%1$I q
            where %2$s
              and ($1 is null or meshhook.message_id_text(q.message, 'run_id') = $1)
              and ($2 is null or meshhook.message_id_text(q.message, 'workflow_id') = $2)
              and ($3 is null or meshhook.message_id_text(q.message, 'project_id') = $3)
              and ($4 is null or meshhook.key_text(case when $7 is null
                    then q.headers ->> 'x-pgmq-group' else q.message #>> $7 end) = $4)
              and ($5 is null
                or meshhook.message_state(q.vt, q.read_ct, q.headers) = $5)
            order by %3$s limit $6)
        $query$, 'q_' || queue, in_range, in_order)
        into found_ids
        using left(run_id, 200), left(workflow_id, 200), left(project_id, 200), left(key, 200),
            state, max_jobs, key_names;
    return found_ids;
end
$$;

-- Cancels jobs: those with the ids, or else up to `max_jobs` that fit, the oldest first. What waits
-- is cancelled when the transaction commits; the worker of what runs is asked to stop it. For each
-- job `result` is cancelled, requested, unchanged or not_found; `was` its state or, if it had left
-- its queue, its outcome; and `at` when it had.
create function meshhook.cancel(
    queue text, msg_ids bigint[] default null, run_id text default null,
    workflow_id text default null, project_id text default null, key text default null,
    state text default null, reason text default null, requested_by text default null,
    max_jobs integer default 1000)
returns table (msg_id bigint, result text, was text, at timestamptz)
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform meshhook.check_queue(queue);
    msg_ids := coalesce(msg_ids, meshhook.matching_messages(
        queue, run_id, workflow_id, project_id, key, state, max_jobs));
    requested_by := coalesce(nullif(requested_by, ''), session_user);
    reason := coalesce(nullif(reason, ''), 'cancelled by ' || requested_by);
    return query execute 'select * from meshhook.cancel_messages($1, $2, null, $3, $4, $5)'
        using queue, msg_ids, array_fill(reason, array[cardinality(msg_ids)]), requested_by, state;
end
$$;

-- Carries out the open requests of a queue whose job came back to wait, as after a retry or a lost
-- lease, and closes those whose job has left the queue. Workers do so while there are any.
-- Locks: these messages and requests, skipping locked ones. Indexes: cancellations_open_idx, the
-- primary key of the queue's table, job_attempts_job_idx.
create function meshhook.carry_out_cancellations(queue text) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    closed bigint;
begin
    execute format($query$
        select count(m.result) from (
            select array_agg(c.msg_id) as ids, array_agg(c.enqueued_at) as times,
                array_agg(c.reason) as reasons
            from (
                select c.msg_id, c.enqueued_at, c.reason
                from meshhook.cancellations c, pgmq.%I q
                where c.queue = $1 and c.ended_at is null
                  and q.msg_id = any (array[c.msg_id]) and q.enqueued_at = c.enqueued_at
                  and meshhook.message_state_now(q.vt, q.read_ct, q.headers) <> 'running'
                limit 1000) c
        ) p,
        lateral meshhook.cancel_messages($1, p.ids, p.times, p.reasons, null, null) m
        where p.ids is not null and m.result = 'cancelled'
        $query$, 'q_' || queue) using queue into closed;
    execute format($query$
        update meshhook.cancellations c
        set ended_at = clock_timestamp(), outcome = (
            select a.outcome from meshhook.job_attempts a
            where a.queue = $1 and a.msg_id = c.msg_id and a.enqueued_at = c.enqueued_at
              and a.outcome in ('succeeded', 'dead_lettered', 'cancelled', 'archived')
            order by a.finished_at desc, a.attempt desc limit 1)
        where c.queue = $1 and c.msg_id = any (array(
            select o.msg_id from meshhook.cancellations o
            where o.queue = $1 and o.ended_at is null and not exists (
                select from pgmq.%I q
                where q.msg_id = any (array[o.msg_id]) and q.enqueued_at = o.enqueued_at)
            limit 1000 for update skip locked))
        $query$, 'q_' || queue) using queue;
    return closed;
end
$$;

-- Moves messages that wait to another time, at once if `at` is null; for 366 days at the most.
-- Locks: the messages, skipping locked ones: those are being claimed or settled, and are left
-- alone.
-- Index: the primary key of the queue's table.
create function meshhook.move_messages(queue text, msg_ids bigint[], at timestamptz, state text)
returns table (msg_id bigint, result text, was text, ready_at timestamptz)
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if at > now() + interval '366 days' then
        raise exception using errcode = 'MHQ08',
            message = format('a job is put off for at most 366 days, got %s', at);
    end if;
    return query execute format($query$
        with wanted as materialized (
            select distinct u.msg_id from unnest($2) as u (msg_id)
        ), seen as materialized (
            select q.msg_id, q.vt, meshhook.message_state_now(q.vt, q.read_ct, q.headers) as state
            from wanted w, pgmq.%1$I q
            where q.msg_id = any (array[w.msg_id])
        ), locked as materialized (
            select q.msg_id, q.vt, meshhook.message_state_now(q.vt, q.read_ct, q.headers) as state
            from seen s, pgmq.%1$I q
            where q.msg_id = any (array[s.msg_id])
            for update of q skip locked
        ), moved as (
            -- Not before now: claims would find it late.
            update pgmq.%1$I q
            set vt = greatest($3, clock_timestamp())
            from locked l
            where q.msg_id = any (array[l.msg_id])
              and (l.state in ('scheduled', 'retrying') or (l.state = 'ready' and $3 is not null))
              and ($4 is null or l.state = $4)
            returning q.msg_id, q.vt
        )
        select w.msg_id, case
                when m.msg_id is not null then 'rescheduled'
                when s.msg_id is not null or f.outcome is not null then 'unchanged'
                else 'not_found' end,
            case when s.msg_id is null then f.outcome else coalesce(l.state, 'running') end,
            case when s.msg_id is null then f.finished_at else coalesce(m.vt, l.vt, s.vt) end
        from wanted w
        left join seen s on s.msg_id = w.msg_id
        left join locked l on l.msg_id = w.msg_id
        left join moved m on m.msg_id = w.msg_id
        left join lateral meshhook.final_outcome($1, w.msg_id) f on s.msg_id is null
        order by w.msg_id
        $query$, 'q_' || queue)
        using queue, msg_ids, at, state;
    if meshhook.may_notify() and (at is null or at <= clock_timestamp()) then
        perform pg_notify('meshhook_wake_' || queue, '');
    end if;
end
$$;

-- Lets jobs that wait run at another time: those with the ids, or else up to `max_jobs` that fit,
-- the oldest first. For each job `result` is rescheduled, unchanged or not_found; `was` its state
-- or outcome; and `ready_at` when it is ready, or when it had left its queue.
create function meshhook.reschedule(
    queue text, msg_ids bigint[] default null, at timestamptz default null,
    delay interval default null, run_id text default null, workflow_id text default null,
    project_id text default null, key text default null, state text default null,
    max_jobs integer default 1000)
returns table (msg_id bigint, result text, was text, ready_at timestamptz)
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform meshhook.check_queue(queue);
    if num_nonnulls(at, delay) <> 1 then
        raise exception using errcode = 'MHQ08', message = 'name a time or a delay, and not both',
            hint = 'at => ''2030-01-01 12:00+00'', or delay => interval ''1 hour''';
    end if;
    return query execute 'select * from meshhook.move_messages($1, $2, $3, $4)'
        using queue, coalesce(msg_ids, meshhook.matching_messages(
                queue, run_id, workflow_id, project_id, key, state, max_jobs)),
            coalesce(at, clock_timestamp() + delay), state;
end
$$;

-- Lets jobs run now that are scheduled or wait for a retry: those with the ids, or else up to
-- `max_jobs` that fit, the oldest first. Returns the same as meshhook.reschedule.
create function meshhook.run_now(
    queue text, msg_ids bigint[] default null, run_id text default null,
    workflow_id text default null, project_id text default null, key text default null,
    state text default null, max_jobs integer default 1000)
returns table (msg_id bigint, result text, was text, ready_at timestamptz)
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform meshhook.check_queue(queue);
    return query execute 'select * from meshhook.move_messages($1, $2, null, $3)'
        using queue, coalesce(msg_ids, meshhook.matching_messages(
            queue, run_id, workflow_id, project_id, key, state, max_jobs)), state;
end
$$;

-- Deletes jobs that do not run with everything about them: the message, a dead letter, the history.
-- For each job `result` is deleted, unchanged or not_found; and `was` its state or outcome.
-- Locks: the deleted rows, skipping messages that are locked. Indexes: the primary key of the
-- queue's table, q_<queue>_dlq_origin_idx, job_attempts_job_idx, cancellations_pkey.
create function meshhook.delete_jobs(queue text, msg_ids bigint[], state text default null)
returns table (msg_id bigint, result text, was text)
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform meshhook.check_queue(queue);
    return query execute format($query$
        with wanted as materialized (
            select distinct u.msg_id from unnest($2) as u (msg_id)
        ), seen as materialized (
            select q.msg_id from wanted w, pgmq.%1$I q where q.msg_id = any (array[w.msg_id])
        ), locked as materialized (
            select q.msg_id, meshhook.message_state_now(q.vt, q.read_ct, q.headers) as state
            from wanted w, pgmq.%1$I q
            where q.msg_id = any (array[w.msg_id])
            for update of q skip locked
        ), removed as (
            delete from pgmq.%1$I q using locked l
            where q.msg_id = any (array[l.msg_id]) and l.state <> 'running'
              and ($3 is null or l.state = $3)
            returning q.msg_id, q.enqueued_at, l.state,
                case when pg_column_size(q.headers) <= 80000
                    then meshhook.unique_key_of(q.headers) end as unique_key,
                case when pg_column_size(q.headers) <= 80000
                    then q.headers ->> 'meshhook-group' end as group_id
        ), counted as materialized (
            select meshhook.count_ended_jobs($1, array_agg(r.group_id), array_agg(r.msg_id),
                array_agg('cancelled'::text))
            from removed r
            where r.group_id is not null
            having count(*) > 0
        ), freed as (
            delete from meshhook.unique_keys u using removed r
            where u.queue = $1 and u.key = any (array[r.unique_key])
              and u.msg_id = r.msg_id and u.enqueued_at = r.enqueued_at
        ), erased as materialized (
            select w.msg_id from wanted w
            where w.msg_id in (select r.msg_id from removed r)
               or ($3 is null and w.msg_id not in (select s.msg_id from seen s))
        ), buried as (
            delete from pgmq.%2$I d using erased e
            where left(d.headers #>> '{meshhook-dead-letter,msg_id}', 20) = e.msg_id::text
              and coalesce(d.headers #>> '{meshhook-dead-letter,queue}', $1) = $1
            returning e.msg_id
        ), forgotten as (
            delete from meshhook.job_attempts a using erased e
            where a.queue = $1 and a.msg_id = any (array[e.msg_id])
            returning a.msg_id, a.outcome
        ), withdrawn as (
            delete from meshhook.cancellations c using erased e
            where c.queue = $1 and c.msg_id = any (array[e.msg_id])
        )
        select w.msg_id, case
                when e.msg_id is null then 'unchanged'
                when r.msg_id is not null or w.msg_id in (select b.msg_id from buried b)
                    or w.msg_id in (select f.msg_id from forgotten f) then 'deleted'
                else 'not_found' end,
            case when e.msg_id is null then coalesce(l.state, 'running')
                when r.msg_id is not null then r.state
                when w.msg_id in (select b.msg_id from buried b) then 'dead_lettered'
                else (select f.outcome from forgotten f where f.msg_id = w.msg_id
                      and f.outcome in ('succeeded', 'cancelled', 'archived', 'replayed',
                          'dead_lettered') limit 1) end
        from wanted w
        left join erased e on e.msg_id = w.msg_id
        left join locked l on l.msg_id = w.msg_id
        left join removed r on r.msg_id = w.msg_id
        -- Asked for, so that it runs.
        where (select count(*) from counted) >= 0
        order by w.msg_id
        $query$, 'q_' || queue, 'q_' || queue || '_dlq')
        using queue, msg_ids, state;
end
$$;

comment on function meshhook.cancel(
    text, bigint[], text, text, text, text, text, text, text, integer) is
    'Cancels jobs: waiting ones in the transaction of the caller; of running ones the worker is '
    'asked. Pass all but the first two arguments by name.';
comment on function meshhook.reschedule(
    text, bigint[], timestamptz, interval, text, text, text, text, text, integer) is
    'Lets waiting jobs run at another time. Pass all but the first two arguments by name.';
comment on function meshhook.run_now(text, bigint[], text, text, text, text, text, integer) is
    'Lets waiting jobs run now. Pass all but the first two arguments by name.';
comment on function meshhook.delete_jobs(text, bigint[], text) is
    'Deletes jobs that do not run, with their dead letters and history. For owners.';

-- * Roles made before
-- Workers read and close requests, and make them as those on call do, who may now
-- remove messages and delay them.

do $$
declare
    grantee record;
begin
    for grantee in
        select distinct r.rolname as name from pg_roles r
        where exists (
                select from meshhook.roles m where m.role = r.oid::regrole and m.kind = 'worker')
            or exists (
                select from pg_attribute t, aclexplode(t.attacl) a
                where t.attrelid = 'meshhook.workers'::regclass and t.attname = 'busy_seconds'
                  and a.privilege_type = 'UPDATE' and a.grantee = r.oid)
            or exists (
                select from pg_class c, aclexplode(c.relacl) a
                where c.oid = 'meshhook.workers'::regclass and a.privilege_type = 'INSERT'
                  and a.grantee = r.oid and c.relowner <> r.oid)
    loop
        execute format('grant select, insert, update (enqueued_at, requested_at, requested_by, '
            'reason, ended_at, outcome) on meshhook.cancellations to %I', grantee.name);
    end loop;
    for grantee in
        select distinct m.role::text as name, m.kind from meshhook.roles m
        where m.kind in ('reader', 'oncall')
    loop
        execute format('grant select on meshhook.cancellations to %s', grantee.name);
        if grantee.kind = 'oncall' then
            execute format('grant select, update (succeeded, failed, cancelled, lost, '
                'finished_at, checked_at, callback_id, callback_error) '
                'on meshhook.job_groups to %s', grantee.name);
            execute format('grant insert, update (enqueued_at, requested_at, requested_by, '
                'reason, ended_at, outcome) on meshhook.cancellations to %s', grantee.name);
        end if;
    end loop;
end
$$;

insert into meshhook.role_grants (role, kind, object, privilege, columns)
    select r.role, r.kind, p.object, p.privilege, p.columns
    from meshhook.roles r
    cross join (values
        ('table meshhook.cancellations', 'select', null, array['worker', 'reader', 'oncall']),
        ('table meshhook.cancellations', 'insert', null, array['worker', 'oncall']),
        ('table meshhook.cancellations', 'update', array['enqueued_at', 'requested_at',
            'requested_by', 'reason', 'ended_at', 'outcome'], array['worker', 'oncall']),
        ('table meshhook.job_groups', 'update', array['succeeded', 'failed', 'cancelled', 'lost',
            'finished_at', 'checked_at', 'callback_id', 'callback_error'], array['oncall']),
        ('queue', 'update', array['vt'], array['oncall']),
        ('queue', 'delete', null, array['oncall'])) as p (object, privilege, columns, kinds)
    where r.kind = any (p.kinds)
    on conflict do nothing;

select meshhook.grant_queue(c.queue_name) from meshhook.queue_config c;
