-- Schedules that JobSchedules of a cluster declare. Locks: ACCESS EXCLUSIVE on meshhook.schedules,
-- briefly: no row is rewritten. Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

alter table meshhook.schedules
    add column resource text check (length(resource) between 1 and 600);

comment on column meshhook.schedules.resource is
    'The JobSchedule that declares it, as namespace/name: an operator changes it back, and deletes '
    'it with its JobSchedule. Null: made by hand or by an application.';

-- Stores a schedule for a JobSchedule, and returns which JobSchedule has it. One that was made by
-- hand (null) or that another JobSchedule has is left as it is. A null `is_paused` leaves that as it
-- is. The errors are those of add_schedule.
-- Locks: the row. Index: the primary key.
create function meshhook.declare_schedule(
    queue text, name text, resource text, cron text, every_seconds integer, time_zone text,
    message jsonb, headers jsonb, key text, missed text, overlap text, is_paused boolean,
    next_at timestamptz)
returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    owner text;
begin
    insert into meshhook.schedules as s (queue, name, cron, every_seconds, time_zone, message,
        missed, overlap, next_at, try_at, resource)
    values (declare_schedule.queue, declare_schedule.name, declare_schedule.cron,
        declare_schedule.every_seconds, declare_schedule.time_zone, declare_schedule.message,
        declare_schedule.missed, declare_schedule.overlap, declare_schedule.next_at,
        coalesce(declare_schedule.next_at, clock_timestamp()), declare_schedule.resource)
    on conflict on constraint schedules_pkey do nothing;
    select s.resource into owner from meshhook.schedules s
        where s.queue = declare_schedule.queue and s.name = declare_schedule.name
        for update;
    if owner is distinct from resource then
        return owner;
    end if;
    perform meshhook.add_schedule(queue, name, cron => declare_schedule.cron,
        every => make_interval(secs => declare_schedule.every_seconds),
        time_zone => declare_schedule.time_zone, message => declare_schedule.message,
        headers => declare_schedule.headers, key => declare_schedule.key,
        missed => declare_schedule.missed, overlap => declare_schedule.overlap,
        next_at => declare_schedule.next_at);
    update meshhook.schedules s set paused = is_paused
        where s.queue = declare_schedule.queue and s.name = declare_schedule.name
          and s.paused <> is_paused;
    return owner;
end
$$;

-- When a job of a schedule last succeeded, and since when none has: when the first job after that
-- was enqueued. Of its jobs, only the newest 40 are looked at, and 5 where there are more than 100
-- schedules: looking is what takes long when all of them fail. No row if the role may not read the
-- history, or there is no job.
-- Locks: none. Indexes: the primary keys, job_attempts_job_idx of the days since each job.
create or replace function meshhook.schedule_results(queue text, name text)
returns table (succeeded_at timestamptz, unsucceeded_since timestamptz)
language plpgsql stable rows 1 set search_path = pg_catalog, pg_temp as $$
declare
    job record;
begin
    if not has_table_privilege('meshhook.job_attempts', 'select') then
        return;
    end if;
    for job in
        select f.msg_id, f.fired_at from meshhook.schedule_firings f
        where f.queue = schedule_results.queue and f.name = schedule_results.name
          and f.msg_id is not null
        order by f.due_at desc
        limit (
            select case when count(*) > 100 then 5 else 40 end
            from (select from meshhook.schedules limit 101) c)
    loop
        select a.finished_at into succeeded_at from meshhook.job_attempts a
            where a.queue = schedule_results.queue and a.msg_id = job.msg_id
              and a.enqueued_at = job.fired_at and a.outcome = 'succeeded'
              and a.finished_at >= job.fired_at
            limit 1;
        exit when found;
        unsucceeded_since := job.fired_at;
    end loop;
    if num_nonnulls(succeeded_at, unsucceeded_since) > 0 then
        return next;
    end if;
end
$$;
