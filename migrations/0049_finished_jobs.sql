-- Bodies of finished jobs: queues with the setting `keep_bodies_days` keep the body and the headers of
-- jobs that succeeded or were cancelled, by day, and such jobs can be replayed.
-- Locks: ACCESS EXCLUSIVE on meshhook.queue_config for the new column and the trigger, which rewrites
-- nothing. Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

alter table meshhook.queue_config add column keep_bodies_days integer
    check (keep_bodies_days between 1 and 36500);
comment on column meshhook.queue_config.keep_bodies_days is
    'How long body and headers of jobs that succeeded or were cancelled are kept, in days, so that '
    'they can be replayed; null means that none are kept.';

-- What hangs together is found by (queue, msg_id, enqueued_at), the identity of a job, as in the
-- history. There is no foreign key: the history goes by another retention. Searches by run, error or
-- time go through the history as well, so one index is enough.
create table meshhook.finished_jobs (
    queue text not null,
    msg_id bigint not null,
    enqueued_at timestamptz,
    finished_at timestamptz not null,
    outcome text not null check (outcome in ('succeeded', 'cancelled')),
    message jsonb,
    headers jsonb,
    replayed_as bigint,
    replayed_at timestamptz
) partition by range (finished_at);

comment on table meshhook.finished_jobs is
    'Body and headers of finished jobs, of queues with keep_bodies_days. Written in the statement '
    'that settles or cancels the job, dropped by day.';
comment on column meshhook.finished_jobs.replayed_as is
    'The msg_id of the job that it was replayed as last.';

create index finished_jobs_job_idx on meshhook.finished_jobs (queue, msg_id);

-- Catches rows of days without a partition, so that settling never fails for it.
create table meshhook.finished_jobs_default partition of meshhook.finished_jobs default;
alter table meshhook.finished_jobs replica identity full;
alter table meshhook.finished_jobs_default replica identity full;

-- Whoever sees a queue's settings sees the bodies of its jobs, if it may read them at all.
alter table meshhook.finished_jobs enable row level security;
create policy of_visible_queues on meshhook.finished_jobs
    using (exists (
        select from meshhook.queue_config c where c.queue_name = finished_jobs.queue))
    with check (exists (
        select from meshhook.queue_config c where c.queue_name = finished_jobs.queue));

-- * Partitions and retention
-- All of it happens when the history's turn comes, by the functions that workers call for that,
-- also those of the version before.

-- Makes the partitions of finished jobs from today to `days_ahead` days later, as long as any queue
-- keeps them, and returns how many were new. A day whose rows already stand in the default partition
-- keeps them there.
-- Locks: SHARE UPDATE EXCLUSIVE on the parent, ACCESS EXCLUSIVE on the default partition for the
-- attach; gives up after a second of waiting and lets the next call try again.
create function meshhook.create_finished_partitions(days_ahead integer default 7) returns integer
language plpgsql
set timezone = 'UTC' set lock_timeout = '1s' set search_path = pg_catalog, pg_temp as $$
declare
    day date;
    name text;
    created integer := 0;
begin
    if not exists (select from meshhook.queue_config c where c.keep_bodies_days is not null) then
        return 0;
    end if;
    perform pg_advisory_xact_lock(hashtext('meshhook.finished_jobs.partitions'));
    for day in select d::date from generate_series(
        (now() at time zone 'UTC')::date,
        (now() at time zone 'UTC')::date + days_ahead,
        interval '1 day') as d
    loop
        name := 'finished_jobs_' || to_char(day, 'YYYYMMDD');
        continue when to_regclass(format('meshhook.%I', name)) is not null;
        continue when exists (
            select from meshhook.finished_jobs_default
            where finished_at >= day::timestamptz and finished_at < (day + 1)::timestamptz);
        execute format(
            'create table meshhook.%I (like meshhook.finished_jobs including all)', name);
        -- LIKE does not copy it.
        execute format('alter table meshhook.%I replica identity full', name);
        execute format(
            'alter table meshhook.finished_jobs attach partition meshhook.%I
             for values from (%L) to (%L)', name, day::timestamptz, (day + 1)::timestamptz);
        created := created + 1;
    end loop;
    return created;
end
$$;

-- Drops every partition of finished jobs whose day no queue keeps any more, and returns how many
-- went. Of today's and coming days none go.
-- Locks: ACCESS EXCLUSIVE on the parent, one partition at a time, for at most a second of waiting.
create function meshhook.drop_expired_finished_partitions() returns integer
language plpgsql
set timezone = 'UTC' set lock_timeout = '1s' set search_path = pg_catalog, pg_temp as $$
declare
    keep_from date;
    part record;
    dropped integer := 0;
begin
    perform pg_advisory_xact_lock(hashtext('meshhook.finished_jobs.partitions'));
    select (now() at time zone 'UTC')::date - coalesce(max(keep_bodies_days), 0)
        into keep_from from meshhook.queue_config;
    for part in
        select c.relname, to_date(right(c.relname, 8), 'YYYYMMDD') as day
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'meshhook.finished_jobs'::regclass
          and c.relname ~ '^finished_jobs_[0-9]{8}$'
        order by c.relname
    loop
        exit when part.day >= keep_from;
        execute format('drop table meshhook.%I', part.relname);
        dropped := dropped + 1;
    end loop;
    return dropped;
end
$$;

-- Deletes up to `chunk` finished jobs that their own queue no longer keeps, and returns how many
-- went: call it until it returns none. Those are all of a queue that keeps none by now, or that was
-- dropped. Days are counted in UTC, as partitions are.
-- Locks: the rows it deletes. Index: finished_jobs_job_idx, newest days left out by partition.
create function meshhook.delete_expired_finished(chunk integer default 5000) returns integer
language plpgsql set timezone = 'UTC' set search_path = pg_catalog, pg_temp as $$
declare
    part record;
    deleted integer := 0;
    gone integer;
begin
    for part in
        with recursive kept (queue) as (
            (select f.queue from meshhook.finished_jobs f order by f.queue limit 1)
            union all
            select (select f.queue from meshhook.finished_jobs f
                    where f.queue > k.queue order by f.queue limit 1)
            from kept k where k.queue is not null
        )
        select k.queue, case when c.keep_bodies_days is null then 'infinity'
            else date_trunc('day', now()) - make_interval(days => c.keep_bodies_days)
            end as keep_from
        from kept k left join meshhook.queue_config c on c.queue_name = k.queue
        where k.queue is not null
    loop
        exit when deleted >= chunk;
        delete from meshhook.finished_jobs f
        using (select tableoid as part, ctid as place from meshhook.finished_jobs
               where queue = part.queue and finished_at < part.keep_from
               limit chunk - deleted) old
        where f.tableoid = old.part and f.ctid = old.place
          and f.queue = part.queue and f.finished_at < part.keep_from;
        get diagnostics gone = row_count;
        deleted := deleted + gone;
    end loop;
    return deleted;
end
$$;

-- Makes the partitions of the history and of finished jobs for the coming week, for whoever may run
-- it. If others use those of finished jobs, these wait for the next call, and the history does not.
create or replace function meshhook.make_coming_partitions() returns integer
language plpgsql security definer set default_tablespace = ''
set default_table_access_method = 'heap' set search_path = pg_catalog, pg_temp as $$
declare
    created integer := meshhook.create_attempt_partitions();
begin
    begin
        created := created + meshhook.create_finished_partitions();
    exception when lock_not_available then
        null;
    end;
    return created;
end
$$;

-- Drops the partitions of the history and of finished jobs that no queue keeps, for whoever may run
-- it. If others use those of finished jobs, these wait for the next call, and the history does not.
create or replace function meshhook.drop_past_partitions() returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    dropped integer := meshhook.drop_expired_attempt_partitions();
begin
    begin
        dropped := dropped + meshhook.drop_expired_finished_partitions();
    exception when lock_not_available then
        null;
    end;
    return dropped;
end
$$;

-- Deletes attempts and finished jobs that their own queue no longer keeps, for whoever may run it.
-- Who may delete from a table may also lock it against everybody: so no worker may.
create or replace function meshhook.delete_past_attempts() returns integer
language sql security definer set search_path = pg_catalog, pg_temp as $$
    select meshhook.delete_expired_attempts() + meshhook.delete_expired_finished()
$$;

-- Makes the partitions when a queue begins to keep bodies. If that would wait, housekeeping does so.
create function meshhook.prepare_finished_jobs() returns trigger
language plpgsql security definer set default_tablespace = ''
set default_table_access_method = 'heap' set search_path = pg_catalog, pg_temp as $$
begin
    begin
        perform meshhook.create_finished_partitions();
    exception when lock_not_available then
        null;
    end;
    return null;
end
$$;

create trigger prepare_finished_jobs
    after insert or update of keep_bodies_days on meshhook.queue_config
    for each row when (new.keep_bodies_days is not null)
    execute function meshhook.prepare_finished_jobs();

revoke execute on function meshhook.prepare_finished_jobs(),
    meshhook.create_finished_partitions(integer), meshhook.drop_expired_finished_partitions(),
    meshhook.delete_expired_finished(integer) from public;

-- * What is kept

-- Whether body and headers of a message are kept: a statement that settles many jobs must not copy
-- gigabytes, and headers that cannot be written anew quickly could not be replayed. The sizes are
-- those that are stored.
create function meshhook.is_keepable(message jsonb, headers jsonb) returns boolean
language sql stable parallel safe set search_path = pg_catalog, pg_temp as $$
    select coalesce(pg_column_size(message), 0) <= 16777216
        and coalesce(pg_column_size(headers), 0) <= 80000
$$;

-- Cancels messages, each of which must have been enqueued at a given time, unless that is null.
-- Those that wait are removed with a row in the history; for those that run, or that a transaction
-- has locked, a request is written. Nothing is waited for.
-- In queues that keep bodies, those of the removed messages are kept.
-- Locks: the messages and their unique keys, skipping locked ones; their groups. Indexes: the primary
-- keys, job_attempts_job_idx.
create or replace function meshhook.cancel_messages(
    queue text, msg_ids bigint[], enqueued_ats timestamptz[], reasons text[], requested_by text,
    state text)
returns table (msg_id bigint, result text, was text, at timestamptz)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    -- Left out otherwise: a statement is refused for what it only might write.
    kept text := case when exists (
            select from meshhook.queue_config c
            where c.queue_name = cancel_messages.queue and c.keep_bodies_days is not null)
        then $kept$, kept as (
            insert into meshhook.finished_jobs
                (queue, msg_id, enqueued_at, finished_at, outcome, message, headers)
            select $1, r.msg_id, r.enqueued_at, clock_timestamp(), 'cancelled', r.message, r.headers
            from removed r
            where meshhook.is_keepable(r.message, r.headers)
        )$kept$ else '' end;
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
            returning q.msg_id, q.enqueued_at, q.message, q.headers, l.reason, l.state,
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
        )%2$s, unlocked_keys as materialized (
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
        $query$, 'q_' || queue, kept)
        using queue, msg_ids, enqueued_ats, reasons, requested_by, state;
end
$$;

-- Deletes jobs that do not run with everything about them: the message, a dead letter, the history,
-- the body that was kept.
-- For each job `result` is deleted, unchanged or not_found; and `was` its state or outcome.
-- A job whose message another transaction has locked counts as running; one whose dead letter is
-- locked is left alone. It waits for transactions that delete the same history, and for those in
-- which a job of the same group has ended.
-- Locks: the deleted rows, skipping locked messages, dead letters, unique keys and requests; the
-- groups, as meshhook.count_ended_jobs. Indexes: the primary key of the queue's table,
-- q_<queue>_dlq_origin_idx, job_attempts_job_idx, finished_jobs_job_idx, the primary
-- keys.
create or replace function meshhook.erase_jobs(
    queue text, msg_ids bigint[], state text default null)
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
        ), dead as materialized (
            select w.msg_id, d.msg_id as letter_id from wanted w, pgmq.%2$I d
            where left(d.headers #>> '{meshhook-dead-letter,msg_id}', 20) = w.msg_id::text
              and coalesce(d.headers #>> '{meshhook-dead-letter,queue}', $1) = $1
        ), locked_dead as materialized (
            select d.msg_id as letter_id from dead e, pgmq.%2$I d
            where d.msg_id = any (array[e.letter_id])
            for update of d skip locked
        ), busy as materialized (
            -- Such as a dead letter that is being replayed.
            select e.msg_id from dead e
            where (e.letter_id in (select d.letter_id from locked_dead d)) is not true
        ), removed as (
            delete from pgmq.%1$I q using locked l
            where q.msg_id = any (array[l.msg_id]) and l.state <> 'running'
              and ($3 is null or l.state = $3)
              and (l.msg_id in (select b.msg_id from busy b)) is not true
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
        ), unlocked_keys as materialized (
            -- One that a sender has locked holds nothing once its message is gone.
            select u.key from removed r, meshhook.unique_keys u
            where u.queue = $1 and u.key = any (array[r.unique_key])
              and u.msg_id = any (array[r.msg_id]) and u.enqueued_at = any (array[r.enqueued_at])
            for update of u skip locked
        ), freed as (
            delete from meshhook.unique_keys u using unlocked_keys k
            where u.queue = $1 and u.key = any (array[k.key])
        ), erased as materialized (
            select w.msg_id from wanted w
            where w.msg_id in (select r.msg_id from removed r)
               or ($3 is null and w.msg_id not in (select s.msg_id from seen s)
                   and w.msg_id not in (select b.msg_id from busy b))
        ), buried as (
            delete from pgmq.%2$I d using dead e
            where d.msg_id = any (array[e.letter_id])
              and (e.msg_id in (select x.msg_id from erased x)) is true
            returning e.msg_id
        ), forgotten as (
            delete from meshhook.job_attempts a using erased e
            where a.queue = $1 and a.msg_id = any (array[e.msg_id])
            returning a.msg_id, a.outcome
        ), emptied as (
            delete from meshhook.finished_jobs k using erased e
            where k.queue = $1 and k.msg_id = any (array[e.msg_id])
            returning k.msg_id
        ), unlocked_requests as materialized (
            -- One that is being closed is deleted a day later.
            select c.msg_id from erased e, meshhook.cancellations c
            where c.queue = $1 and c.msg_id = any (array[e.msg_id])
            for update of c skip locked
        ), withdrawn as (
            delete from meshhook.cancellations c using unlocked_requests e
            where c.queue = $1 and c.msg_id = any (array[e.msg_id])
        )
        select w.msg_id, case
                when e.msg_id is null and s.msg_id is null and b.msg_id is null
                    and f.outcome is null then 'not_found'
                when e.msg_id is null then 'unchanged'
                when r.msg_id is not null or w.msg_id in (select u.msg_id from buried u)
                    or w.msg_id in (select o.msg_id from forgotten o)
                    or w.msg_id in (select k.msg_id from emptied k) then 'deleted'
                else 'not_found' end,
            case when r.msg_id is not null then r.state
                when s.msg_id is not null then coalesce(l.state, 'running')
                when b.msg_id is not null or w.msg_id in (select u.msg_id from buried u)
                    then 'dead_lettered'
                when e.msg_id is null then f.outcome
                else (select o.outcome from forgotten o where o.msg_id = w.msg_id
                      and o.outcome in ('succeeded', 'cancelled', 'archived', 'replayed',
                          'dead_lettered') limit 1) end
        from wanted w
        left join erased e on e.msg_id = w.msg_id
        left join seen s on s.msg_id = w.msg_id
        left join (select distinct b.msg_id from busy b) b on b.msg_id = w.msg_id
        left join locked l on l.msg_id = w.msg_id
        left join removed r on r.msg_id = w.msg_id
        left join lateral meshhook.final_outcome($1, w.msg_id) f
            on e.msg_id is null and s.msg_id is null
        -- Asked for, so that it runs.
        where (select count(*) from counted) >= 0
        order by w.msg_id
        $query$, 'q_' || queue, 'q_' || queue || '_dlq')
        using queue, msg_ids, state;
end
$$;

-- * Replay

-- Of which job of the same queue a message is a replay, by its headers; null if of none.
create function meshhook.replayed_from(queue text, headers jsonb) returns bigint
language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
    select case when pg_column_size(headers) <= 80000
            and headers #>> '{meshhook-replayed-from,queue}' = queue
            and headers #>> '{meshhook-replayed-from,msg_id}' ~ '^[0-9]{1,18}$'
        then (headers #>> '{meshhook-replayed-from,msg_id}')::bigint end
$$;

-- Enqueues jobs again that have succeeded or were cancelled and whose bodies are kept: the newest with
-- each id, or the one enqueued at a given time. Each is replayed once, however often this is called
-- and by whom, unless `again` says otherwise. The new job has the same body and headers, less what
-- belongs to the first: its group, its unique key and its attempts. `key`, if any, leaves out kept
-- jobs of other keys, and all that are not kept.
-- For each job `result` is replayed, unchanged, not_kept or not_found; `was` its state or how it
-- ended, or `replayed` if it was replayed before; `at` when that was; and `replayed_as` the msg_id of
-- the new job. With `dry_run`, nothing is changed, and there is no new msg_id.
-- Locks: the finished jobs, skipping locked ones, which are left alone. Indexes:
-- finished_jobs_job_idx, job_attempts_job_idx, the primary key of the queue's table.
create function meshhook.replay_jobs(
    queue text, msg_ids bigint[], enqueued_ats timestamptz[] default null, key text default null,
    again boolean default false, delay interval default null, dry_run boolean default false)
returns table (msg_id bigint, result text, was text, at timestamptz, replayed_as bigint)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    key_names text[];
begin
    perform meshhook.check_queue(queue);
    if delay not between interval '0' and interval '366 days' then
        raise exception using errcode = 'MHQ08',
            message = format('delay is 0 to 366 days, got %s', delay);
    end if;
    select string_to_array(case when c.keyed then c.key_path end, '.') into key_names
        from meshhook.queue_config c where c.queue = replay_jobs.queue;
    return query execute format($query$
        with moment as materialized (
            select clock_timestamp() as at
        ), wanted as materialized (
            select distinct u.msg_id, u.enqueued_at from unnest($2, $3) as u (msg_id, enqueued_at)
            where u.msg_id is not null
        ), kept as materialized (
            select w.msg_id, w.enqueued_at as asked_at, k.enqueued_at, k.finished_at, k.outcome,
                k.replayed_as, k.replayed_at, k.key
            from wanted w
            cross join lateral (
                select f.enqueued_at, f.finished_at, f.outcome, f.replayed_as, f.replayed_at,
                    meshhook.key_text(case when $7 is null then f.headers ->> 'x-pgmq-group'
                        else f.message #>> $7 end) as key
                from meshhook.finished_jobs f
                where f.queue = $1 and f.msg_id = any (array[w.msg_id])
                  and (w.enqueued_at is null or f.enqueued_at = w.enqueued_at)
                order by f.enqueued_at desc nulls last, f.finished_at desc limit 1
            ) k
        ), locked as materialized (
            -- What was replayed since the snapshot is seen in the row that is locked.
            select f.msg_id, f.enqueued_at, f.finished_at, f.message, f.headers, f.replayed_as
            from kept k, meshhook.finished_jobs f
            where f.queue = $1 and f.msg_id = any (array[k.msg_id])
              and f.enqueued_at is not distinct from k.enqueued_at
              and f.finished_at = k.finished_at
              and ($4 is null or k.key = $4)
            for update of f skip locked
        ), sent as (
            insert into pgmq.%1$I as q_table (enqueued_at, vt, message, headers)
            select m.at, m.at + $6, l.message,
                meshhook.headers_object(l.headers) - array['meshhook-settled', 'meshhook-claim',
                    'meshhook-group', 'meshhook-unique', 'meshhook-dead-letter']
                || jsonb_build_object('meshhook-replayed-from', jsonb_build_object(
                    'queue', $1, 'msg_id', l.msg_id, 'enqueued_at', l.enqueued_at,
                    'replays', 1 + case
                        when l.headers #>> '{meshhook-replayed-from,replays}' ~ '^[0-9]{1,9}$'
                        then (l.headers #>> '{meshhook-replayed-from,replays}')::int else 0 end))
            from locked l cross join moment m
            where (l.replayed_as is null or $5) and not $8
            order by l.msg_id, l.enqueued_at
            returning q_table.msg_id as new_id, q_table.enqueued_at as sent_at,
                (q_table.headers #>> '{meshhook-replayed-from,msg_id}')::bigint as msg_id,
                (q_table.headers #>> '{meshhook-replayed-from,enqueued_at}')::timestamptz as enqueued_at
        ), marked as (
            update meshhook.finished_jobs f set replayed_as = s.new_id, replayed_at = s.sent_at
            from sent s
            where f.queue = $1 and f.msg_id = any (array[s.msg_id])
              and f.enqueued_at is not distinct from s.enqueued_at
        ), written as materialized (
            select meshhook.audit('jobs.replayed', $1,
                jsonb_build_object('msg_ids', $2[1:100], 'key', $4), count(*))
            from sent
        )
        select w.msg_id, case
                when s.new_id is not null
                    or ($8 and l.msg_id is not null and (l.replayed_as is null or $5))
                    then 'replayed'
                when k.msg_id is not null or q.state is not null
                    or f.outcome in ('dead_lettered', 'replayed') then 'unchanged'
                when f.outcome is not null then 'not_kept'
                else 'not_found' end,
            case when k.msg_id is null then coalesce(q.state, f.outcome)
                when s.new_id is null and coalesce(l.replayed_as, k.replayed_as) is not null
                    and not $5 then 'replayed'
                else k.outcome end,
            case when k.msg_id is null then case when q.state is null then f.finished_at end
                when s.new_id is null and coalesce(l.replayed_as, k.replayed_as) is not null
                    and not $5 then k.replayed_at
                else k.finished_at end,
            coalesce(s.new_id, l.replayed_as, k.replayed_as)
        from wanted w
        left join kept k on k.msg_id = w.msg_id
            and k.asked_at is not distinct from w.enqueued_at
        left join locked l on l.msg_id = k.msg_id and l.finished_at = k.finished_at
            and l.enqueued_at is not distinct from k.enqueued_at
        left join sent s on s.msg_id = k.msg_id
            and s.enqueued_at is not distinct from k.enqueued_at
        left join lateral (
            select meshhook.message_state_now(q.vt, q.read_ct, q.headers) as state
            from pgmq.%1$I q
            where k.msg_id is null and q.msg_id = any (array[w.msg_id])
              and (w.enqueued_at is null or q.enqueued_at = w.enqueued_at)
        ) q on true
        left join lateral meshhook.final_outcome($1, w.msg_id) f
            on k.msg_id is null and q.state is null
        where ($4 is null or k.key = $4)
          -- Asked for, so that it is written.
          and (select count(*) from written) >= 0
        order by w.msg_id
        $query$, 'q_' || queue)
        using queue, msg_ids, enqueued_ats, left(key, 200), again, coalesce(delay, interval '0'),
            key_names, dry_run;
end
$$;

comment on function meshhook.replay_jobs(
    text, bigint[], timestamptz[], text, boolean, interval, boolean) is
    'Enqueues finished jobs again whose bodies are kept. Pass all but the first two by name.';

-- The size of all kept bodies, for metrics; null if their tables are locked.
create function meshhook.finished_bytes() returns bigint
language plpgsql stable
set lock_timeout = '200ms' set search_path = pg_catalog, pg_temp as $$
begin
    return (select sum(pg_total_relation_size(t.relid))
            from pg_partition_tree('meshhook.finished_jobs') t);
exception when lock_not_available then
    return null;
end
$$;

-- * Roles made before
-- Workers write what they keep, and cannot read it; who reads messages reads kept ones; who is on
-- call marks what was replayed, and keeps what is cancelled.

insert into meshhook.role_grants (role, kind, object, privilege, columns)
    select r.role, r.kind, g.object, g.privilege, g.columns
    from meshhook.roles r
    join (values
        ('worker', 'table meshhook.finished_jobs', 'insert', null::text[]),
        ('reader', 'table meshhook.finished_jobs', 'select', null),
        ('oncall', 'table meshhook.finished_jobs', 'select', null),
        ('oncall', 'table meshhook.finished_jobs', 'insert', null),
        ('oncall', 'table meshhook.finished_jobs', 'update', array['replayed_as', 'replayed_at'])
    ) as g (kind, object, privilege, columns) on g.kind = r.kind
    on conflict do nothing;

update meshhook.role_grants set columns = columns || array['keep_bodies_days']
    where kind = 'oncall' and object = 'table meshhook.queue_config' and privilege = 'update'
      and not 'keep_bodies_days' = any (columns);

do $$
declare
    part record;
begin
    for part in
        select a.rolname as name, g.object, g.privilege, g.columns
        from meshhook.role_grants g join pg_roles a on a.oid = g.role
        where g.object = 'table meshhook.finished_jobs'
        union
        select r.rolname, 'table meshhook.queue_config', 'update', array['keep_bodies_days']
        from pg_roles r, pg_attribute t, aclexplode(t.attacl) a
        where t.attrelid = 'meshhook.queue_config'::regclass and t.attname = 'max_running'
          and a.privilege_type = 'UPDATE' and a.grantee = r.oid
        union
        -- Those that were granted their rights by hand: whoever settles jobs keeps them.
        select r.rolname, 'table meshhook.finished_jobs', 'insert', null
        from pg_roles r, pg_class t, aclexplode(t.relacl) a
        where t.oid = 'meshhook.job_attempts'::regclass and a.privilege_type = 'INSERT'
          and a.grantee = r.oid and a.grantee <> t.relowner
    loop
        execute format('grant %s%s on %s to %I', part.privilege,
            coalesce(' (' || array_to_string(part.columns, ', ') || ')', ''), part.object,
            part.name);
    end loop;
end
$$;
