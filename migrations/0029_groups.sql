-- Groups of jobs: a job that is enqueued once, when the last job of the group has ended. And
-- follow-ups: jobs that are enqueued in the statement that settles another one.
-- Locks: SHARE ROW EXCLUSIVE on meshhook.queue_config for the reference to it. Time at size:
-- milliseconds.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

create table meshhook.job_groups (
    id uuid primary key,
    queue text not null references meshhook.queue_config (queue_name) on delete cascade,
    name text collate "C" not null check (length(name) between 1 and 200),
    msg_ids int8multirange not null,
    total integer not null check (total >= 0),
    succeeded integer not null default 0,
    failed integer not null default 0,
    cancelled integer not null default 0,
    lost integer not null default 0,
    created_at timestamptz not null default now(),
    finished_at timestamptz,
    checked_at timestamptz not null default now(),
    callback_queue text,
    callback_message jsonb,
    callback_headers jsonb,
    callback_delay_seconds double precision not null default 0,
    callback_id bigint,
    callback_error text,
    unique (queue, name),
    check ((callback_queue is null) = (callback_message is null))
) with (fillfactor = 70);

-- Those that have not ended, and those that have and whose callback could not be enqueued.
create index job_groups_open_idx on meshhook.job_groups (queue, checked_at)
    where finished_at is null or (callback_queue is not null and callback_id is null);
create index job_groups_finished_idx on meshhook.job_groups (queue, finished_at)
    where finished_at is not null;
create index job_groups_newest_idx on meshhook.job_groups (created_at);

comment on table meshhook.job_groups is
    'Groups of jobs that were enqueued together. Its jobs have the id in the header meshhook-group.';
comment on column meshhook.job_groups.msg_ids is
    'The jobs of the group. It never changes: a dead letter that is replayed is a new job, of none.';
comment on column meshhook.job_groups.failed is
    'How many jobs became dead letters, were archived with an error, or were lost.';
comment on column meshhook.job_groups.lost is
    'How many of those that failed are gone without an outcome: somebody deleted their messages.';
comment on column meshhook.job_groups.checked_at is
    'When somebody last looked for jobs that are gone and were not counted.';
comment on column meshhook.job_groups.callback_id is
    'The msg_id of the job that was enqueued when the last job had ended.';
comment on column meshhook.job_groups.callback_error is
    'Why that job could not be enqueued; it is tried again.';

-- Whoever sees a queue's settings sees its groups.
alter table meshhook.job_groups enable row level security;
create policy of_visible_queues on meshhook.job_groups
    using (exists (
        select from meshhook.queue_config c where c.queue_name = job_groups.queue))
    with check (exists (
        select from meshhook.queue_config c where c.queue_name = job_groups.queue));

-- * Follow-ups

-- Stores jobs in the queues that are named, all or none: `messages`, `headers`, `keys` and
-- `delays` (in seconds) are of the same length. The errors are those of check_jobs, and MHQ13 for
-- whatever else a queue refuses a job with, such as a constraint or a trigger of its table: the one
-- whose job it follows can tell it from a refusal of its own outcome.
-- Locks: the new rows.
create function meshhook.enqueue_follow_ups(
    queues text[], messages text[], headers text[], keys text[], delays double precision[])
returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    target text;
    bodies jsonb[];
begin
    for target in select distinct q from unnest(queues) as q order by q loop
        select array_agg(i.message::jsonb order by i.position) into bodies
            from unnest(queues, messages) with ordinality as i (queue, message, position)
            where i.queue is not distinct from target;
        perform meshhook.check_jobs(target, bodies, null, null);
        execute format(
            'insert into pgmq.%I (vt, message, headers)
            select clock_timestamp() + make_interval(secs => coalesce(i.delay, 0)), i.message::jsonb,
                meshhook.headers_with_key($1, i.headers::jsonb, i.key)
            from unnest($2, $3, $4, $5, $6) with ordinality
                as i (queue, message, headers, key, delay, position)
            where i.queue = $1
            order by i.position', 'q_' || target)
            using target, queues, messages, headers, keys, delays;
    end loop;
exception when others then
    -- What says by itself that a job is refused, and what is tried again.
    if sqlstate ~ '^(MHQ|22|08|25|40|53|55|57|58|XX)'
        or sqlstate in ('42501', '42602', '42P01', '54000')
    then
        raise;
    end if;
    raise exception using errcode = 'MHQ13', message = format(
        'queue "%s" refuses it: %s (SQLSTATE %s)', target, left(sqlerrm, 1000), sqlstate),
        hint = format('A trigger, a constraint or an index of pgmq.%I does.', 'q_' || target);
end
$$;

-- * Groups

-- Stores the callback of a group, with what became of its jobs, and returns its id. The errors are
-- those of check_jobs. Locks: the new row.
create function meshhook.insert_group_callback(
    callback_queue text, message jsonb, headers jsonb, delay_seconds double precision,
    finished_group jsonb)
returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    callback_msg_id bigint;
begin
    perform meshhook.check_jobs(callback_queue, array[message], headers, null);
    execute format(
        'insert into pgmq.%I (vt, message, headers)
        values (clock_timestamp() + make_interval(secs => $1), $2, $3)
        returning msg_id', 'q_' || callback_queue)
        into callback_msg_id
        using delay_seconds, message, coalesce(headers, '{}')
            || jsonb_build_object('meshhook-finished-group', finished_group);
    return callback_msg_id;
end
$$;

-- Enqueues the callback of a group that has ended, if it has one. What refuses it is kept in
-- callback_error, so that the settlement of the group's last jobs is not refused with it; the next
-- look at the group tries again. Call it with the group's row locked.
create function meshhook.enqueue_group_callback(group_id uuid) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    ended record;
    callback_msg_id bigint;
begin
    select * into ended from meshhook.job_groups g where g.id = group_id;
    if not found or ended.callback_queue is null or ended.callback_id is not null then
        return;
    end if;
    begin
        callback_msg_id := meshhook.insert_group_callback(
            ended.callback_queue, ended.callback_message, ended.callback_headers,
            ended.callback_delay_seconds, jsonb_build_object(
                'queue', ended.queue, 'name', ended.name, 'total', ended.total,
                'succeeded', ended.succeeded, 'failed', ended.failed,
                'cancelled', ended.cancelled));
        update meshhook.job_groups g set callback_id = callback_msg_id, callback_error = null
            where g.id = group_id;
    exception when others then
        -- Of these the whole statement is tried again.
        if sqlstate ~ '^(40|53|57|58|XX)' then
            raise;
        end if;
        update meshhook.job_groups g set callback_error = left(sqlerrm, 1000) where g.id = group_id;
    end;
end
$$;

-- What an outcome counts as in a group: succeeded, failed or cancelled. An archived message failed if
-- an error came with it; else a client put it there when it was done.
create function meshhook.outcome_in_group(outcome text, error_type text) returns text
language sql immutable parallel safe
return case when outcome in ('succeeded', 'cancelled') then outcome
    when outcome = 'archived' and error_type is null then 'succeeded' else 'failed' end;

-- Counts jobs that have had their final outcome, in the statement or transaction that removes their
-- messages; the last one of a group enqueues its callback. `groups` are the values of the header
-- meshhook-group, whatever stands there; what is no job of a group is not counted. `outcomes` are
-- succeeded, failed or cancelled.
-- Locks: the groups, in the order of their ids, until the transaction ends. Index: the primary key.
create function meshhook.count_ended_jobs(
    queue text, groups text[], msg_ids bigint[], outcomes text[])
returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    part record;
    counts record;
    members int8multirange;
    is_over boolean;
begin
    for part in
        select i.group_id::uuid as id, array_agg(i.msg_id) as msg_ids,
            array_agg(i.outcome) as outcomes, range_agg(int8range(i.msg_id, i.msg_id, '[]')) as ids
        from unnest(groups, msg_ids, outcomes) as i (group_id, msg_id, outcome)
        where i.group_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
        group by 1
        order by 1
    loop
        -- Read apart, since it never changes and may be large.
        select g.msg_ids * part.ids into members from meshhook.job_groups g
            where g.id = part.id and g.queue = count_ended_jobs.queue;
        continue when members is null or isempty(members);
        select count(*) filter (where i.outcome = 'succeeded')::integer as succeeded,
            count(*) filter (where i.outcome = 'cancelled')::integer as cancelled,
            count(*) filter (where i.outcome = 'failed')::integer as failed
            into counts
            from unnest(part.msg_ids, part.outcomes) as i (msg_id, outcome)
            where i.msg_id <@ members;
        update meshhook.job_groups g
            set succeeded = g.succeeded + counts.succeeded, failed = g.failed + counts.failed,
                cancelled = g.cancelled + counts.cancelled,
                finished_at = case when g.succeeded + g.failed + g.cancelled + counts.succeeded
                    + counts.failed + counts.cancelled >= g.total then clock_timestamp() end
            where g.id = part.id and g.finished_at is null
            returning g.finished_at is not null into is_over;
        if is_over then
            perform meshhook.enqueue_group_callback(part.id);
        end if;
    end loop;
end
$$;

-- Makes a group of jobs that this transaction has stored with its id in their headers. Without jobs
-- it has ended already. The errors are those of check_jobs, for the callback, and MHQ10 for a name
-- that the queue has a group of.
-- Locks: the new row.
create function meshhook.create_group(
    group_id uuid, queue text, name text, ids bigint[], callback_queue text,
    callback_message jsonb, callback_headers jsonb, callback_delay_seconds double precision)
returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    is_made boolean;
begin
    name := coalesce(name, group_id::text);
    if length(name) not between 1 and 200 then
        raise exception using errcode = 'MHQ07', message = format(
            'the name of a group is text of 1 to 200 characters, got %s', length(name));
    end if;
    if callback_queue is not null then
        callback_headers := meshhook.check_jobs(callback_queue, array[callback_message],
            callback_headers, make_interval(secs => coalesce(callback_delay_seconds, 0)));
    end if;
    insert into meshhook.job_groups (id, queue, name, msg_ids, total, callback_queue,
        callback_message, callback_headers, callback_delay_seconds, finished_at, callback_id)
    select group_id, create_group.queue, create_group.name,
        coalesce((select range_agg(int8range(i, i, '[]')) from unnest(ids) as i), '{}'),
        cardinality(ids), create_group.callback_queue, create_group.callback_message,
        create_group.callback_headers, coalesce(create_group.callback_delay_seconds, 0),
        case when cardinality(ids) = 0 then clock_timestamp() end,
        case when cardinality(ids) = 0 and create_group.callback_queue is not null
            then meshhook.insert_group_callback(create_group.callback_queue,
                create_group.callback_message, create_group.callback_headers,
                coalesce(create_group.callback_delay_seconds, 0), jsonb_build_object(
                    'queue', create_group.queue, 'name', create_group.name, 'total', 0,
                    'succeeded', 0, 'failed', 0, 'cancelled', 0)) end
    on conflict on constraint job_groups_queue_name_key do nothing
    returning true into is_made;
    if is_made is null then
        raise exception using errcode = 'MHQ10', message = format(
            'queue "%s" has a group "%s" already', queue, name),
            hint = format('Give each group a name of its own, or none. Its state: '
                'meshhook groups show %s %s', queue, name);
    end if;
end
$$;

-- Stores jobs as a group, in the transaction of the caller, all or none, and returns their ids in
-- order. When the last of them has its final outcome, the callback is enqueued, once.
create function meshhook.enqueue_group(
    queue text, messages jsonb[], name text default null, callback_queue text default null,
    callback_message jsonb default null, callback_headers jsonb default null,
    callback_delay interval default null, headers jsonb default null, delay interval default null,
    key text default null)
returns setof bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    group_id uuid := gen_random_uuid();
    ids bigint[];
begin
    if (callback_queue is null) <> (callback_message is null) then
        raise exception using errcode = 'MHQ07',
            message = 'callback_queue and callback_message are given together, or neither is';
    end if;
    headers := meshhook.check_jobs(queue, messages, headers, delay);
    headers := coalesce(meshhook.headers_with_key(queue, headers, key), '{}')
        || jsonb_build_object('meshhook-group', group_id);
    execute format(
        'with stored as (
            insert into pgmq.%I (vt, message, headers)
            select clock_timestamp() + make_interval(secs => $3), item.message, $2
            from unnest($1) with ordinality as item (message, position)
            order by item.position
            returning msg_id
        )
        select coalesce(array_agg(msg_id), ''{}'') from stored', 'q_' || queue)
        into ids
        using messages, headers, coalesce(extract(epoch from delay), 0)::double precision;
    perform meshhook.create_group(group_id, queue, name, ids, callback_queue, callback_message,
        callback_headers, coalesce(extract(epoch from callback_delay), 0)::double precision);
    return query select i from unnest(ids) as i;
end
$$;

comment on function meshhook.enqueue_group(
    text, jsonb[], text, text, jsonb, jsonb, interval, jsonb, interval, text) is
    'Stores jobs as a group in the transaction of the caller, and returns their msg_ids in order. '
    'Arguments may be added: pass all but the first two by name.';

-- Looks at groups that have not ended, those longest not looked at first, and ends those of which
-- no message is left: their jobs were settled by workers of an older version, which do not count
-- them, or deleted. Outcomes are taken from the history; a job without one is lost. A callback that
-- could not be enqueued is tried again. Returns how many were looked at.
-- A job that a settlement under way removes is still seen here, and counted there.
-- Locks: the groups, skipping locked ones. Indexes: job_groups_open_idx, the primary key of the
-- queue's table, job_attempts_job_idx.
create function meshhook.repair_groups(
    queue text, not_since interval default '1 minute', max_groups integer default 100,
    only_name text default null)
returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    part record;
    seen integer := 0;
    has_messages boolean;
    found_counts record;
begin
    for part in
        select g.* from meshhook.job_groups g
        where g.queue = repair_groups.queue
          and (g.finished_at is null or (g.callback_queue is not null and g.callback_id is null))
          and g.checked_at <= clock_timestamp() - not_since
          and (only_name is null or g.name = only_name)
        order by g.checked_at
        limit max_groups
        for update skip locked
    loop
        seen := seen + 1;
        if part.finished_at is null then
            has_messages := false;
            if to_regclass(format('pgmq.%I', 'q_' || part.queue)) is not null then
                execute format(
                    'select exists (
                        select from unnest($1) as r (ids)
                        cross join lateral (
                            select from pgmq.%I q
                            where q.msg_id >= lower(r.ids) and q.msg_id < upper(r.ids)
                              and q.enqueued_at = $2
                            limit 1) found)', 'q_' || part.queue)
                    into has_messages using part.msg_ids, part.created_at;
            end if;
            if not has_messages then
                select count(*) filter (where o.outcome = 'succeeded')::integer as succeeded,
                    count(*) filter (where o.outcome = 'cancelled')::integer as cancelled,
                    count(*) filter (where o.outcome = 'failed')::integer
                        as failed
                    into found_counts
                    from unnest(part.msg_ids) as r (ids)
                    cross join lateral generate_series(lower(r.ids), upper(r.ids) - 1) as i (msg_id)
                    cross join lateral (
                        select meshhook.outcome_in_group(a.outcome, a.error_type) as outcome
                        from meshhook.job_attempts a
                        where a.queue = part.queue and a.msg_id = i.msg_id
                          and a.enqueued_at = part.created_at
                          and a.finished_at >= part.created_at - interval '1 minute'
                          and a.outcome in ('succeeded', 'dead_lettered', 'cancelled', 'archived')
                        limit 1) o;
                -- What the history no longer has was counted; what was not counted, it has.
                update meshhook.job_groups g
                    set succeeded = greatest(g.succeeded, found_counts.succeeded),
                        cancelled = greatest(g.cancelled, found_counts.cancelled),
                        failed = greatest(g.total - greatest(g.succeeded, found_counts.succeeded)
                            - greatest(g.cancelled, found_counts.cancelled), 0),
                        lost = greatest(g.total - greatest(g.succeeded, found_counts.succeeded)
                            - greatest(g.cancelled, found_counts.cancelled)
                            - greatest(g.failed, found_counts.failed), 0),
                        finished_at = clock_timestamp()
                    where g.id = part.id;
                part.finished_at := clock_timestamp();
            end if;
        end if;
        if part.finished_at is not null then
            perform meshhook.enqueue_group_callback(part.id);
        end if;
        update meshhook.job_groups g set checked_at = clock_timestamp() where g.id = part.id;
    end loop;
    return seen;
end
$$;

-- Deletes groups that ended longer ago than their queue keeps history, at most 5,000, for whoever
-- may run it. Returns how many went. Who may delete from a table may also lock it against everybody:
-- so no worker may.
-- Locks: the rows it deletes. Index: job_groups_finished_idx.
create function meshhook.delete_past_groups() returns integer
language sql security definer set search_path = pg_catalog, pg_temp as $$
    with gone as (
        delete from meshhook.job_groups g
        where g.id in (
            select old.id from meshhook.queue_config c
            cross join lateral (
                select g.id from meshhook.job_groups g
                where g.queue = c.queue_name
                  and g.finished_at < now() - make_interval(days => c.history_retention_days)
                  and (g.callback_queue is null or g.callback_id is not null)
                order by g.finished_at
                limit 5000) old
            limit 5000)
        returning 1
    )
    select count(*)::integer from gone
$$;

revoke execute on function meshhook.delete_past_groups() from public;

-- * Roles made before

do $$
declare
    grantee record;
begin
    for grantee in
        select distinct r.rolname as name,
            exists (select from meshhook.roles m
                where m.role = r.oid::regrole and m.kind = 'worker')
            or exists (
                select from pg_attribute t, aclexplode(t.attacl) a
                where t.attrelid = 'meshhook.workers'::regclass and t.attname = 'busy_seconds'
                  and a.privilege_type = 'UPDATE' and a.grantee = r.oid) as is_worker,
            exists (select from meshhook.roles m
                where m.role = r.oid::regrole and m.kind = 'producer') as is_producer,
            exists (select from meshhook.roles m
                where m.role = r.oid::regrole and m.kind in ('reader', 'oncall')) as is_reader
        from pg_roles r
    loop
        if grantee.is_worker then
            execute format(
                'grant select, update (succeeded, failed, cancelled, lost, finished_at, checked_at,
                    callback_id, callback_error) on meshhook.job_groups to %I', grantee.name);
            execute format(
                'grant execute on function meshhook.delete_past_groups() to %I', grantee.name);
        end if;
        if grantee.is_producer then
            execute format(
                'grant select (queue, name), insert (id, queue, name, msg_ids, total,
                    callback_queue, callback_message, callback_headers, callback_delay_seconds,
                    finished_at, callback_id) on meshhook.job_groups to %I', grantee.name);
        end if;
        if grantee.is_reader then
            execute format('grant select on meshhook.job_groups to %I', grantee.name);
        end if;
    end loop;
end
$$;

insert into meshhook.role_grants (role, kind, object, privilege, columns)
    select r.role, r.kind, g.object, g.privilege, g.columns
    from meshhook.roles r
    join (values
        ('worker', 'table meshhook.job_groups', 'select', null::text[]),
        ('worker', 'table meshhook.job_groups', 'update', array['succeeded', 'failed', 'cancelled',
            'lost', 'finished_at', 'checked_at', 'callback_id', 'callback_error']),
        ('worker', 'function meshhook.delete_past_groups()', 'execute', null),
        ('producer', 'table meshhook.job_groups', 'select', array['queue', 'name']),
        ('producer', 'table meshhook.job_groups', 'insert', array['id', 'queue', 'name', 'msg_ids',
            'total', 'callback_queue', 'callback_message', 'callback_headers',
            'callback_delay_seconds', 'finished_at', 'callback_id']),
        ('reader', 'table meshhook.job_groups', 'select', null),
        ('oncall', 'table meshhook.job_groups', 'select', null)
    ) as g (kind, object, privilege, columns) on g.kind = r.kind
    on conflict do nothing;
