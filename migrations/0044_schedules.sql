-- Schedules: jobs that are enqueued at due times. Any worker takes the schedules that are due, and
-- one statement sends the jobs, notes them in the history and moves the schedule on.
-- Locks: SHARE ROW EXCLUSIVE on meshhook.queue_config for the reference to it. Time at size:
-- milliseconds.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

create table meshhook.schedules (
    queue text not null references meshhook.queue_config (queue_name) on delete cascade,
    name text collate "C" not null check (name ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$'),
    cron text check (length(cron) between 1 and 200),
    every_seconds integer check (every_seconds between 1 and 31622400),
    time_zone text not null default 'UTC' check (length(time_zone) between 1 and 100),
    message jsonb not null default '{}',
    headers jsonb,
    key text check (length(key) between 1 and 200),
    missed text not null default 'once' check (missed in ('skip', 'once', 'all')),
    overlap text not null default 'allow' check (overlap in ('allow', 'skip')),
    paused boolean not null default false,
    -- Python has no times without end, and workers are written in it.
    next_at timestamptz check (next_at between '2000-01-01 00:00+00' and '9000-01-01 00:00+00'),
    try_at timestamptz default now()
        check (try_at between '2000-01-01 00:00+00' and '9000-01-01 00:00+00'),
    error text,
    failed_at timestamptz,
    created_at timestamptz not null default now(),
    primary key (queue, name),
    check (num_nonnulls(cron, every_seconds) = 1)
);

create index schedules_due_idx on meshhook.schedules (try_at) where not paused;

comment on table meshhook.schedules is
    'Jobs that are enqueued at due times: by a cron expression in a time zone, or every so many '
    'seconds since 1970.';
comment on column meshhook.schedules.missed is
    'What becomes of due times that passed while no worker ran: skip, once (one job for all), all.';
comment on column meshhook.schedules.overlap is
    'skip: no job while the last one is in the queue, waiting, running or retrying.';
comment on column meshhook.schedules.next_at is
    'The next due time. It only moves forward. Null: a worker has yet to work it out, or, without '
    'try_at, there is none.';
comment on column meshhook.schedules.try_at is
    'When workers look at it: at the next due time, or a minute after an error.';
comment on column meshhook.schedules.error is
    'Why it could not be fired at failed_at; it is tried again every minute.';

create table meshhook.schedule_firings (
    queue text not null,
    name text collate "C" not null,
    due_at timestamptz not null,
    fired_at timestamptz not null default now(),
    outcome text not null default 'enqueued'
        check (outcome in ('enqueued', 'overlapped', 'missed')),
    msg_id bigint,
    missed integer not null default 0,
    is_manual boolean not null default false,
    -- One job for each due time, whoever fires it, and whatever the clock does.
    primary key (queue, name, due_at),
    foreign key (queue, name) references meshhook.schedules (queue, name) on delete cascade
);

comment on table meshhook.schedule_firings is
    'The history of schedules, one row for each due time. Inserting a row sends its job.';
comment on column meshhook.schedule_firings.outcome is
    'enqueued; overlapped: not sent, since an earlier job was in the queue; missed: not sent, '
    'since it was too late.';
comment on column meshhook.schedule_firings.missed is
    'How many earlier due times had passed and got no job of their own; counted up to 100.';

-- Whoever sees a queue's settings sees its schedules.
alter table meshhook.schedules enable row level security;
create policy of_visible_queues on meshhook.schedules
    using (exists (
        select from meshhook.queue_config c where c.queue_name = schedules.queue))
    with check (exists (
        select from meshhook.queue_config c where c.queue_name = schedules.queue));
alter table meshhook.schedule_firings enable row level security;
create policy of_visible_queues on meshhook.schedule_firings
    using (exists (
        select from meshhook.queue_config c where c.queue_name = schedule_firings.queue))
    with check (exists (
        select from meshhook.queue_config c where c.queue_name = schedule_firings.queue));

-- A schedule that got other due times, or is no longer paused, starts at the first one from now on.
create function meshhook.plan_again() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    new.next_at := null;
    new.try_at := clock_timestamp();
    return new;
end
$$;

create trigger plan_again
    before update on meshhook.schedules
    for each row
    when (new.next_at is not distinct from old.next_at
        and (new.cron is distinct from old.cron
            or new.every_seconds is distinct from old.every_seconds
            or new.time_zone is distinct from old.time_zone
            or (old.paused and not new.paused)))
    execute function meshhook.plan_again();

-- Sends the job of a due time, with the rights of whoever notes it, who must be allowed to enqueue:
-- with those of its owner, triggers of others on the queue's table would have them, too.
-- Locks: the schedule, the new rows. Indexes: the primary keys.
create function meshhook.send_firing() returns trigger
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
                    limit 10) f
                join pgmq.%I q on q.msg_id = f.msg_id and q.enqueued_at = f.fired_at)',
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

create trigger send_firing
    before insert on meshhook.schedule_firings
    for each row execute function meshhook.send_firing();

-- Sends the jobs of due times of a schedule, in order, and moves it on to the one that follows
-- (null: there is none). `outcome` is enqueued or missed. Returns how many jobs were sent, and
-- null if the schedule is paused, gone, in the hands of another worker, or no longer due at
-- `expected`. A due time that the history has is not sent again.
-- Locks: the schedule, skipping a locked one. Indexes: the primary keys.
create function meshhook.fire_schedule(
    queue text, name text, expected timestamptz, due timestamptz[], outcome text, missed integer,
    following timestamptz)
returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    moment timestamptz;
    was_sent boolean;
    sent integer := 0;
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
            select fire_schedule.queue, fire_schedule.name, moment, fire_schedule.outcome,
                case when sent = 0 then fire_schedule.missed else 0 end
            where not exists (
                select from meshhook.schedule_firings o
                where o.queue = fire_schedule.queue and o.name = fire_schedule.name
                  and o.due_at = moment)
            returning f.msg_id is not null into was_sent;
        sent := sent + coalesce(was_sent, false)::integer;
    end loop;
    update meshhook.schedules s
        set next_at = following, try_at = following, error = null, failed_at = null
        where s.queue = fire_schedule.queue and s.name = fire_schedule.name;
    return sent;
end
$$;

-- Whether the current role may enqueue into a queue. True for one that has no table: whoever tries
-- to enqueue learns that.
create function meshhook.may_enqueue(queue text) returns boolean
language sql stable
return coalesce(has_any_column_privilege(
    to_regclass(format('pgmq.%I', 'q_' || queue))::oid, 'insert'), true);

-- Stores a schedule, or changes it, and returns whether anything was changed. It has a cron
-- expression, or a number of seconds. Without `next_at`, a worker works out the first due time from
-- now on. The errors are those of check_jobs, and MHQ08 for anything that a schedule cannot have.
-- Locks: the row. Index: the primary key.
create function meshhook.add_schedule(
    queue text, name text, cron text default null, every interval default null,
    time_zone text default 'UTC', message jsonb default '{}', headers jsonb default null,
    key text default null, missed text default 'once', overlap text default 'allow',
    next_at timestamptz default null)
returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    seconds numeric := extract(epoch from every);
    fault text;
begin
    headers := meshhook.check_jobs(queue, array[message], headers, null);
    perform meshhook.headers_with_key(queue, headers, key);
    fault := case
        when name is null or name !~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$' then format(
            'the name of a schedule is 1 to 100 characters of a-z, A-Z, 0-9, _, . and -, and '
            'starts with a letter or digit, got %s', coalesce(left(name, 100), 'null'))
        when num_nonnulls(cron, every) <> 1 then 'a schedule has either cron or every'
        when length(cron) not between 1 and 200 then format(
            'cron is text of 1 to 200 characters, got %s', length(cron))
        when seconds not between 1 and 31622400 or seconds <> trunc(seconds) then format(
            'every is whole seconds, from 1 second to 366 days, got %s', every)
        when length(time_zone) between 1 and 100 is not true then format(
            'time_zone is a name such as Europe/Berlin, got %s',
            coalesce(left(time_zone, 100), 'null'))
        when missed is null or missed not in ('skip', 'once', 'all') then format(
            'missed is skip, once or all, got %s', coalesce(left(missed, 100), 'null'))
        when overlap is null or overlap not in ('allow', 'skip') then format(
            'overlap is allow or skip, got %s', coalesce(left(overlap, 100), 'null'))
    end;
    if fault is not null then
        raise exception using errcode = 'MHQ08', message = fault;
    end if;
    -- Whoever declares what is there already needs no right to change it.
    if exists (
        select from meshhook.schedules s
        where s.queue = add_schedule.queue and s.name = add_schedule.name
          and (s.cron, s.every_seconds, s.time_zone, s.message, s.headers, s.key, s.missed,
                s.overlap)
            is not distinct from (add_schedule.cron, seconds::integer, add_schedule.time_zone,
                add_schedule.message, add_schedule.headers, add_schedule.key, add_schedule.missed,
                add_schedule.overlap))
    then
        return false;
    end if;
    insert into meshhook.schedules as s (queue, name, cron, every_seconds, time_zone, message,
        headers, key, missed, overlap, next_at, try_at)
    values (add_schedule.queue, add_schedule.name, add_schedule.cron, seconds::integer,
        add_schedule.time_zone, add_schedule.message, add_schedule.headers, add_schedule.key,
        add_schedule.missed, add_schedule.overlap, add_schedule.next_at,
        coalesce(add_schedule.next_at, clock_timestamp()))
    on conflict on constraint schedules_pkey do update
        set cron = excluded.cron, every_seconds = excluded.every_seconds,
            time_zone = excluded.time_zone, message = excluded.message,
            headers = excluded.headers, key = excluded.key, missed = excluded.missed,
            overlap = excluded.overlap, error = null, failed_at = null,
            next_at = case when (s.cron, s.every_seconds, s.time_zone) is distinct from
                (excluded.cron, excluded.every_seconds, excluded.time_zone)
                then excluded.next_at else s.next_at end,
            try_at = case when (s.cron, s.every_seconds, s.time_zone) is distinct from
                (excluded.cron, excluded.every_seconds, excluded.time_zone)
                then excluded.try_at else coalesce(s.next_at, excluded.try_at) end;
    return true;
end
$$;

comment on function meshhook.add_schedule(
    text, text, text, interval, text, jsonb, jsonb, text, text, text, timestamptz) is
    'Stores a schedule, or changes it, and returns whether anything was changed. Arguments may be '
    'added: pass all but the first two by name.';

-- Deletes firings that their queue no longer keeps, at most 5,000, for whoever may run it. The
-- newest 100 of a schedule stay whatever their age, and 10,000 are the most. Returns how many went.
-- Locks: the rows it deletes. Index: the primary key.
create function meshhook.delete_past_firings() returns integer
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
                    select f.due_at, f.fired_at, row_number() over (order by f.due_at desc) as place
                    from meshhook.schedule_firings f
                    where f.queue = s.queue and f.name = s.name
                ) n
                where n.place > 10000
                   or (n.place > 100
                    and n.fired_at < now() - make_interval(days => c.history_retention_days))
                limit 5000) old
            limit 5000)
        returning 1
    )
    select count(*)::integer from gone
$$;

revoke execute on function meshhook.delete_past_firings() from public;

-- * Roles made before

insert into meshhook.role_grants (role, kind, object, privilege, columns)
    select r.role, r.kind, g.object, g.privilege, g.columns
    from meshhook.roles r
    join (values
        ('worker', 'table meshhook.schedules', 'select', null::text[]),
        ('worker', 'table meshhook.schedules', 'update',
            array['next_at', 'try_at', 'error', 'failed_at']),
        ('worker', 'table meshhook.schedule_firings', 'select', null),
        ('worker', 'table meshhook.schedule_firings', 'insert', null),
        ('worker', 'function meshhook.delete_past_firings()', 'execute', null),
        ('producer', 'table meshhook.schedules', 'select', null),
        ('producer', 'table meshhook.schedules', 'insert', null),
        ('producer', 'table meshhook.schedules', 'update', array['cron', 'every_seconds',
            'time_zone', 'message', 'headers', 'key', 'missed', 'overlap', 'paused', 'next_at',
            'try_at', 'error', 'failed_at']),
        ('producer', 'table meshhook.schedule_firings', 'select', null),
        ('producer', 'table meshhook.schedule_firings', 'insert', null),
        ('reader', 'table meshhook.schedules', 'select', null),
        ('reader', 'table meshhook.schedule_firings', 'select', null),
        ('oncall', 'table meshhook.schedules', 'select', null),
        ('oncall', 'table meshhook.schedules', 'update', array['paused', 'next_at', 'try_at']),
        ('oncall', 'table meshhook.schedule_firings', 'select', null),
        ('oncall', 'table meshhook.schedule_firings', 'insert', null),
        ('operator', 'table meshhook.schedules', 'select', null),
        ('operator', 'table meshhook.schedules', 'insert', null),
        ('operator', 'table meshhook.schedules', 'update', null),
        ('operator', 'table meshhook.schedules', 'delete', null),
        ('operator', 'table meshhook.schedule_firings', 'select', null)
    ) as g (kind, object, privilege, columns) on g.kind = r.kind
    on conflict do nothing;

do $$
declare
    part record;
begin
    for part in
        select a.rolname as name, g.object, g.privilege, g.columns
        from meshhook.role_grants g join pg_roles a on a.oid = g.role
        where g.object in ('table meshhook.schedules', 'table meshhook.schedule_firings',
            'function meshhook.delete_past_firings()')
    loop
        execute format('grant %s%s on %s to %I', part.privilege,
            coalesce(' (' || array_to_string(part.columns, ', ') || ')', ''), part.object,
            part.name);
    end loop;
    -- Workers that were granted their rights by hand.
    for part in
        select r.rolname as name from pg_roles r
        where exists (
            select from pg_attribute t, aclexplode(t.attacl) a
            where t.attrelid = 'meshhook.workers'::regclass and t.attname = 'busy_seconds'
              and a.privilege_type = 'UPDATE' and a.grantee = r.oid)
    loop
        execute format('grant select, update (next_at, try_at, error, failed_at)
            on meshhook.schedules to %I', part.name);
        execute format('grant select, insert on meshhook.schedule_firings to %I', part.name);
        execute format('grant execute on function meshhook.delete_past_firings() to %I', part.name);
    end loop;
end
$$;
