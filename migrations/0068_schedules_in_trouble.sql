-- Schedules in trouble: what catches up keeps no other waiting, and a job that is in the queue for
-- long is not forgotten by overlap.
-- Locks: none that others hold. Time at size: milliseconds; no queue is touched.

set local search_path = pg_catalog, pg_temp;

-- Sends the jobs of due times of a schedule, in order, and moves it on to the one that follows
-- (null: there is none). `outcome` is enqueued or missed. Returns how many jobs were sent, and
-- null if the schedule is paused, gone, in the hands of another worker, or no longer due at
-- `expected`. A due time that the history has is not sent again. The first one that it has not
-- stands for the `missed` ones, too, whether it is sent or not.
-- One that is behind comes to its turn again a second later, after those that fell due before.
-- Locks: the schedule, skipping a locked one. Indexes: the primary keys.
create or replace function meshhook.fire_schedule(
    queue text, name text, expected timestamptz, due timestamptz[], outcome text, missed integer,
    following timestamptz)
returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    moment timestamptz;
    was_sent boolean;
    sent integer := 0;
    untold integer := fire_schedule.missed;
begin
    perform from meshhook.schedules s
        where s.queue = fire_schedule.queue and s.name = fire_schedule.name and not s.paused
          and s.next_at is not distinct from expected
        for update skip locked;
    if not found then
        return null;
    end if;
    for moment in select d from unnest(due) as d order by d loop
        insert into meshhook.schedule_firings as f (queue, name, due_at, outcome, missed)
            select fire_schedule.queue, fire_schedule.name, moment, fire_schedule.outcome, untold
            where not exists (
                select from meshhook.schedule_firings o
                where o.queue = fire_schedule.queue and o.name = fire_schedule.name
                  and o.due_at = moment)
            returning f.msg_id is not null into was_sent;
        if found then
            sent := sent + was_sent::integer;
            untold := 0;
        end if;
    end loop;
    update meshhook.schedules s
        set next_at = following, error = null, failed_at = null,
            try_at = case when cardinality(due) > 0 and following < now() - interval '1 second'
                then now() + interval '1 second' else following end
        where s.queue = fire_schedule.queue and s.name = fire_schedule.name;
    return sent;
end
$$;

-- Sends the job of a due time, with the rights of whoever notes it, who must be allowed to enqueue:
-- with those of its owner, triggers of others on the queue's table would have them, too.
-- With overlap=skip it looks for the newest hundred jobs of the schedule, those that were sent by
-- hand among them: delete_past_firings keeps as many.
-- Locks: the schedule, the new rows. Indexes: the primary keys.
create or replace function meshhook.send_firing() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    schedule record;
    job_headers jsonb;
    is_alive boolean := false;
begin
    new.fired_at := now();
    new.msg_id := null;
    if new.outcome <> 'enqueued' then
        return new;
    end if;
    select * into schedule from meshhook.schedules s
        where s.queue = new.queue and s.name = new.name
        for update;
    if not found then
        return null;
    end if;
    job_headers := meshhook.headers_with_key(schedule.queue,
        meshhook.check_jobs(schedule.queue, array[schedule.message], schedule.headers, null),
        schedule.key);
    if schedule.overlap = 'skip' and not new.is_manual then
        execute format(
            'select exists (
                select from (
                    select f.msg_id, f.fired_at from meshhook.schedule_firings f
                    where f.queue = $1 and f.name = $2 and f.msg_id is not null
                    order by f.due_at desc
                    limit 100) f
                -- A plain = would let the planner read the whole queue where it takes it for empty.
                join pgmq.%I q on q.msg_id = any (array[f.msg_id]) and q.enqueued_at = f.fired_at)',
            'q_' || schedule.queue)
            into is_alive using schedule.queue, schedule.name;
    end if;
    if is_alive then
        new.outcome := 'overlapped';
        return new;
    end if;
    execute format(
        'insert into pgmq.%I (vt, message, headers) values (clock_timestamp(), $1, $2)
        returning msg_id', 'q_' || schedule.queue)
        into new.msg_id
        using schedule.message, coalesce(job_headers, '{}') || jsonb_build_object(
            'meshhook-schedule', jsonb_build_object(
                'name', schedule.name,
                'due_at', to_char(new.due_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')));
    return new;
end
$$;

-- Deletes firings that their queue no longer keeps, at most 5,000, for whoever may run it. The
-- newest 100 of a schedule, and the newest 100 that sent a job, stay whatever their age; of others,
-- 10,000 are the most. Returns how many went.
-- Locks: the rows it deletes. Index: the primary key.
create or replace function meshhook.delete_past_firings() returns integer
language sql security definer set search_path = pg_catalog, pg_temp as $$
    with gone as (
        delete from meshhook.schedule_firings f
        where (f.queue, f.name, f.due_at) in (
            select s.queue, s.name, old.due_at
            from meshhook.schedules s
            join meshhook.queue_config c on c.queue = s.queue
            cross join lateral (
                select n.due_at
                from (
                    select f.due_at, f.fired_at, f.msg_id, row_number() over newest as place,
                        count(f.msg_id) over newest as jobs
                    from meshhook.schedule_firings f
                    where f.queue = s.queue and f.name = s.name
                    window newest as (order by f.due_at desc)
                ) n
                where (n.place > 10000
                        or (n.place > 100
                            and n.fired_at
                                < now() - make_interval(days => c.history_retention_days)))
                  -- One of these may still be in the queue: overlap asks for it.
                  and (n.msg_id is null or n.jobs > 100)
                limit 5000) old
            limit 5000)
        returning 1
    )
    select count(*)::integer from gone
$$;
