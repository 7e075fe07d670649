-- The history of attempts: append-only, one partition a day, dropped by retention.
-- Locks: none that others hold; the table is new. Time at size: milliseconds.

create table meshhook.job_attempts (
    queue text not null,
    msg_id bigint not null,
    attempt integer not null,
    outcome text not null
        check (outcome in ('succeeded', 'retried', 'snoozed', 'dead_lettered', 'cancelled',
                           'archived', 'lost', 'replayed')),
    run_id text,
    workflow_id text,
    project_id text,
    worker text,
    enqueued_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz not null,
    error_type text,
    error_message text,
    error_stack text,
    trace_id text,
    retry_at timestamptz,
    replayed_as bigint
) partition by range (finished_at);

comment on table meshhook.job_attempts is
    'One row an attempt, written in the statement that settles it.';
comment on column meshhook.job_attempts.retry_at is
    'When the job becomes ready again, after a retry or a snooze.';
comment on column meshhook.job_attempts.replayed_as is
    'The msg_id that a replayed dead letter got, in the queue it was sent to.';

create index job_attempts_job_idx on meshhook.job_attempts (queue, msg_id);
create index job_attempts_run_idx on meshhook.job_attempts (run_id) where run_id is not null;

-- Catches rows when maintenance has not run for a week, so that settling never fails for it.
create table meshhook.job_attempts_default
    partition of meshhook.job_attempts default;

create function meshhook.job_attempts_partition_name(day date) returns text
language sql immutable as $$
    select 'job_attempts_' || to_char(day, 'YYYYMMDD')
$$;

-- Makes the partitions from today to `days_ahead` days later, and returns how many were new.
-- A day whose rows already stand in the default partition keeps them there.
-- Locks: SHARE UPDATE EXCLUSIVE on the parent, ACCESS EXCLUSIVE on the default partition for
-- the attach; gives up after a second of waiting and lets the next call try again.
create function meshhook.create_attempt_partitions(days_ahead integer default 7) returns integer
language plpgsql set timezone = 'UTC' set lock_timeout = '1s' as $$
declare
    day date;
    name text;
    created integer := 0;
begin
    perform pg_advisory_xact_lock(hashtext('meshhook.job_attempts.partitions'));
    for day in select d::date from generate_series(
        (now() at time zone 'UTC')::date,
        (now() at time zone 'UTC')::date + days_ahead,
        interval '1 day') as d
    loop
        name := meshhook.job_attempts_partition_name(day);
        continue when to_regclass(format('meshhook.%I', name)) is not null;
        continue when exists (
            select from meshhook.job_attempts_default
            where finished_at >= day::timestamptz and finished_at < (day + 1)::timestamptz);
        execute format(
            'create table meshhook.%I (like meshhook.job_attempts including all)', name);
        execute format(
            'alter table meshhook.job_attempts attach partition meshhook.%I
             for values from (%L) to (%L)', name, day::timestamptz, (day + 1)::timestamptz);
        created := created + 1;
    end loop;
    return created;
end
$$;

select meshhook.create_attempt_partitions();

-- Drops every partition whose day no queue keeps any more, and returns how many went.
-- Locks: ACCESS EXCLUSIVE on the parent, one partition at a time, for at most a second of waiting.
create function meshhook.drop_expired_attempt_partitions() returns integer
language plpgsql set timezone = 'UTC' set lock_timeout = '1s' as $$
declare
    keep_from date;
    part record;
    dropped integer := 0;
begin
    perform pg_advisory_xact_lock(hashtext('meshhook.job_attempts.partitions'));
    select (now() at time zone 'UTC')::date - coalesce(max(history_retention_days), 7)
        into keep_from from meshhook.queue_config;
    for part in
        select c.relname, to_date(right(c.relname, 8), 'YYYYMMDD') as day
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'meshhook.job_attempts'::regclass
          and c.relname ~ '^job_attempts_[0-9]{8}$'
        order by c.relname
    loop
        exit when part.day >= keep_from;
        execute format('drop table meshhook.%I', part.relname);
        dropped := dropped + 1;
    end loop;
    return dropped;
end
$$;

-- Deletes up to `chunk` attempts that their own queue no longer keeps, and returns how many went:
-- call it until it returns less. For queues that keep less than the queue that keeps most, and for
-- the default partition.
-- Locks: the rows it deletes. Index: job_attempts_job_idx, newest days left out by partition.
create function meshhook.delete_expired_attempts(chunk integer default 5000) returns integer
language plpgsql set timezone = 'UTC' as $$
declare
    config record;
    deleted integer := 0;
    gone integer;
begin
    for config in
        select q.queue_name, now() - make_interval(days => q.history_retention_days) as keep_from
        from meshhook.queue_config q
    loop
        exit when deleted >= chunk;
        delete from meshhook.job_attempts a
        using (select tableoid as part, ctid as place from meshhook.job_attempts
               where queue = config.queue_name and finished_at < config.keep_from
               limit chunk - deleted) old
        where a.tableoid = old.part and a.ctid = old.place
          and a.queue = config.queue_name and a.finished_at < config.keep_from;
        get diagnostics gone = row_count;
        deleted := deleted + gone;
    end loop;
    return deleted;
end
$$;
