-- The audit log: every change that a person or a program makes to queues, settings, jobs, dead
-- letters, keys, schedules, topics and roles, written in the transaction of the change. What
-- workers do with jobs is in the history, and is not written here.
-- Plain sends, claims, extensions and settlements stay as they are.
-- Locks: SHARE ROW EXCLUSIVE on meshhook.queue_config, keys, schedules, schedule_firings and roles
-- for their triggers, and ACCESS EXCLUSIVE on meshhook.role_grants. Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

create table meshhook.audit_log (
    id bigint generated always as identity primary key,
    at timestamptz not null,
    database_role text not null,
    actor text not null check (length(actor) <= 200),
    source text not null check (source in ('cli', 'console', 'operator', 'library', 'sql')),
    action text not null check (length(action) <= 100),
    queue text check (length(queue) <= 100),
    filter jsonb,
    count bigint,
    details jsonb,
    operation uuid
);

create index audit_log_queue_idx on meshhook.audit_log (queue, id);

comment on table meshhook.audit_log is
    'Who changed what, one row a change, written in its transaction. Only the owner can change or '
    'delete rows; those older than meshhook.audit_settings says are deleted.';
comment on column meshhook.audit_log.at is 'When, by the clock of the database.';
comment on column meshhook.audit_log.database_role is
    'The role that had logged in (session_user). The database itself vouches for it.';
comment on column meshhook.audit_log.actor is
    'The person or program that a program named, or else the role.';
comment on column meshhook.audit_log.source is
    'What it was done with: cli, console, operator, library, or sql for everything else.';
comment on column meshhook.audit_log.filter is
    'What was asked for, such as ids or an error type. Of ids the first 100.';
comment on column meshhook.audit_log.count is 'How many rows were changed; null where it says nothing.';
comment on column meshhook.audit_log.details is
    'More about the change; of settings the old and the new value. No bodies and no secrets.';
comment on column meshhook.audit_log.operation is
    'The same for all chunks of one change that was made in several transactions.';

create table meshhook.audit_settings (
    is_only_row boolean primary key default true check (is_only_row),
    retention_days integer not null default 365 check (retention_days between 1 and 36500)
);
insert into meshhook.audit_settings default values;

comment on table meshhook.audit_settings is 'How long meshhook.audit_log is kept; one row.';
comment on column meshhook.audit_settings.retention_days is
    'Rows older than that are deleted, by the workers, once an hour.';

-- Whoever sees a queue's settings sees its rows. A role that is for all queues also sees those of
-- queues that are gone and those that are of no queue.
alter table meshhook.audit_log enable row level security;
create policy of_visible_queues on meshhook.audit_log for select
    using (
        exists (
            select from meshhook.roles r
            where r.queues is null and pg_has_role(r.role::oid, 'member'))
        or exists (
            select from meshhook.queue_config c where c.queue_name = audit_log.queue));

-- A value that is too large for the audit log, cut.
create function meshhook.audit_value(value jsonb) returns jsonb
language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
    select case when pg_column_size(value) > 16000
        then jsonb_build_object('cut_from_bytes', pg_column_size(value)) else value end
$$;

-- Writes a row of the audit log in the current transaction, unless `count` is 0: then nothing was
-- changed. Who and with what is said by the settings meshhook.actor and meshhook.source of the
-- transaction, what was asked for by meshhook.filter, and what it is a part of by
-- meshhook.operation. Whatever they hold, the change itself goes on.
-- Locks: the new row.
create function meshhook.audit(
    action text, queue text, filter jsonb default null, count bigint default null,
    details jsonb default null)
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    said_source text := current_setting('meshhook.source', true);
    said_operation text := current_setting('meshhook.operation', true);
    said_filter jsonb;
begin
    if audit.count = 0 then
        return;
    end if;
    begin
        said_filter := nullif(current_setting('meshhook.filter', true), '')::jsonb;
    exception when others then
        said_filter := null;
    end;
    insert into meshhook.audit_log (at, database_role, actor, source, action, queue, filter, count,
        details, operation)
    values (
        clock_timestamp(), session_user,
        regexp_replace(left(coalesce(nullif(current_setting('meshhook.actor', true), ''),
            session_user), 200), '[[:cntrl:]]', '?', 'g'),
        case when said_source in ('cli', 'console', 'operator', 'library') then said_source
            else 'sql' end,
        left(coalesce(audit.action, 'unknown'), 100), left(audit.queue, 100),
        nullif(meshhook.audit_value(jsonb_strip_nulls(
            case when jsonb_typeof(audit.filter) = 'object' then audit.filter else '{}' end
            || case when jsonb_typeof(said_filter) = 'object' then said_filter else '{}' end)), '{}'),
        audit.count, nullif(meshhook.audit_value(audit.details), '{}'),
        case when said_operation ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
            then said_operation::uuid end);
end
$$;

comment on function meshhook.audit(text, text, jsonb, bigint, jsonb) is
    'Writes a row of meshhook.audit_log. Who did it is said by set_config(''meshhook.actor'', ..., '
    'true) in the same transaction; the role that had logged in is always written too.';

-- The fields in which two rows differ, each with its old and new value.
create function meshhook.changed_fields(before jsonb, after jsonb, except_fields text[])
returns jsonb
language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
    select coalesce(jsonb_object_agg(f.name, jsonb_build_object(
            'old', before -> f.name, 'new', after -> f.name)), '{}')
    from (select jsonb_object_keys(before || after) as name) f
    where before -> f.name is distinct from after -> f.name
      and f.name <> all (except_fields)
$$;

-- * Settings of queues, whoever writes them

create function meshhook.audit_queue_config() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    -- Not settings: names, times, and what create_queue notes.
    aside constant text[] := array['queue', 'queue_name', 'created_at', 'updated_at',
        'adopted_msg_id'];
    changed jsonb;
begin
    if tg_op = 'INSERT' then
        perform meshhook.audit('queue.created', new.queue_name,
            details => to_jsonb(new) - aside);
    elsif tg_op = 'DELETE' then
        perform meshhook.audit('queue.dropped', old.queue_name);
    else
        changed := meshhook.changed_fields(to_jsonb(old), to_jsonb(new), aside);
        if changed ? 'paused' then
            perform meshhook.audit(
                case when new.paused then 'queue.paused' else 'queue.resumed' end, new.queue_name);
        end if;
        if changed - 'paused' <> '{}' then
            perform meshhook.audit('settings.changed', new.queue_name,
                details => changed - 'paused');
        end if;
    end if;
    return null;
end
$$;

create trigger audit_queue_config
    after insert or update or delete on meshhook.queue_config
    for each row execute function meshhook.audit_queue_config();

create function meshhook.audit_settings_changed() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform meshhook.audit('audit.retention_changed', null, details => meshhook.changed_fields(
        to_jsonb(old), to_jsonb(new), '{}'));
    return null;
end
$$;

create trigger audit_settings_changed
    after update on meshhook.audit_settings
    for each row when (old.* is distinct from new.*)
    execute function meshhook.audit_settings_changed();

-- * Keys: what is set for them, and holds that are not of a handler or a dead letter

create function meshhook.audit_keys() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    aside constant text[] := array['queue', 'key', 'held_until', 'held_at', 'held_by',
        'hold_reason', 'held_by_dead_letter', 'held_by_job'];
    before jsonb := '{}';
    after jsonb := '{}';
    name text;
    of_queue text;
    changed jsonb;
begin
    if tg_op <> 'INSERT' then
        before := jsonb_strip_nulls(to_jsonb(old));
        name := old.key;
        of_queue := old.queue;
    end if;
    if tg_op <> 'DELETE' then
        after := jsonb_strip_nulls(to_jsonb(new));
        name := new.key;
        of_queue := new.queue;
    elsif not exists (select from meshhook.queue_config c where c.queue_name = of_queue) then
        return null;  -- It went with its queue.
    end if;
    changed := meshhook.changed_fields(before, after, aside);
    if changed <> '{}' then
        perform meshhook.audit('key.set', of_queue, jsonb_build_object('key', name),
            details => changed);
    end if;
    if after -> 'held_until' is not null
        and (before -> 'held_until', before -> 'held_by', before -> 'hold_reason')
            is distinct from (after -> 'held_until', after -> 'held_by', after -> 'hold_reason')
        and coalesce(after ->> 'held_by', 'manual') = 'manual'
    then
        perform meshhook.audit('key.held', of_queue, jsonb_build_object('key', name),
            details => jsonb_strip_nulls(jsonb_build_object(
                'until', after -> 'held_until', 'reason', after -> 'hold_reason')));
    -- A dead letter that is replayed or deleted resumes its key by a trigger.
    elsif before -> 'held_until' is not null and after -> 'held_until' is null
        and pg_trigger_depth() = 1
    then
        perform meshhook.audit('key.resumed', of_queue, jsonb_build_object('key', name));
    end if;
    return null;
end
$$;

create trigger audit_new_keys
    after insert on meshhook.keys
    for each row when (coalesce(new.held_by, 'manual') = 'manual')
    execute function meshhook.audit_keys();
create trigger audit_changed_keys
    after update on meshhook.keys
    for each row when (new.held_by is null or new.held_by = 'manual'
        or old.weight is distinct from new.weight
        or old.max_running is distinct from new.max_running
        or old.max_starts is distinct from new.max_starts)
    execute function meshhook.audit_keys();
create trigger audit_forgotten_keys
    after delete on meshhook.keys
    for each row when (num_nonnulls(old.weight, old.max_running, old.max_starts, old.held_until) > 0)
    execute function meshhook.audit_keys();

-- * Schedules: their definition, and runs by hand

create function meshhook.audit_schedules() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    aside constant text[] := array['queue', 'name', 'created_at', 'next_at', 'try_at', 'error',
        'failed_at', 'enqueued_total', 'overlapped_total', 'missed_total', 'failed_total'];
    changed jsonb;
    hidden text;
begin
    if tg_op = 'DELETE' then
        if exists (select from meshhook.queue_config c where c.queue_name = old.queue) then
            perform meshhook.audit('schedule.deleted', old.queue,
                jsonb_build_object('schedule', old.name));
        end if;
        return null;
    end if;
    if tg_op = 'INSERT' then
        perform meshhook.audit('schedule.added', new.queue,
            jsonb_build_object('schedule', new.name),
            details => jsonb_strip_nulls(to_jsonb(new)) - aside - 'message' - 'headers');
        return null;
    end if;
    changed := meshhook.changed_fields(to_jsonb(old), to_jsonb(new), aside);
    if changed ? 'paused' then
        perform meshhook.audit(
            case when new.paused then 'schedule.paused' else 'schedule.resumed' end, new.queue,
            jsonb_build_object('schedule', new.name));
        changed := changed - 'paused';
    end if;
    -- That a body was changed is said, and not what it holds.
    foreach hidden in array array['message', 'headers'] loop
        if changed ? hidden then
            changed := changed || jsonb_build_object(hidden, 'changed');
        end if;
    end loop;
    if changed <> '{}' then
        perform meshhook.audit('schedule.changed', new.queue,
            jsonb_build_object('schedule', new.name), details => changed);
    end if;
    return null;
end
$$;

create trigger audit_schedules
    after insert or delete
    on meshhook.schedules for each row execute function meshhook.audit_schedules();
-- Workers write only the columns that are left out here.
create trigger audit_changed_schedules
    after update of cron, every_seconds, time_zone, message, headers, key, missed, overlap, paused
    on meshhook.schedules for each row execute function meshhook.audit_schedules();

create function meshhook.audit_manual_firing() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform meshhook.audit('schedule.run', new.queue, jsonb_build_object('schedule', new.name),
        details => jsonb_build_object('msg_id', new.msg_id));
    return null;
end
$$;

create trigger audit_manual_firing
    after insert on meshhook.schedule_firings
    for each row when (new.is_manual)
    execute function meshhook.audit_manual_firing();

-- * Roles

create function meshhook.audit_roles() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'INSERT' then
        perform meshhook.audit('role.granted', null,
            jsonb_build_object('role', new.role::text, 'kind', new.kind),
            details => jsonb_build_object('queues', coalesce(to_jsonb(new.queues), '"all"')));
    -- Granting again replaces the row.
    elsif not exists (
        select from meshhook.roles r where r.role = old.role and r.kind = old.kind)
    then
        perform meshhook.audit('role.revoked', null,
            jsonb_build_object('role', old.role::text, 'kind', old.kind));
    end if;
    return null;
end
$$;

create trigger audit_granted_roles
    after insert on meshhook.roles
    for each row execute function meshhook.audit_roles();
create constraint trigger audit_revoked_roles
    after delete on meshhook.roles deferrable initially deferred
    for each row execute function meshhook.audit_roles();

-- * Changes of jobs by SQL functions

-- As before, and in the audit log.
create or replace function meshhook.cancel(
    queue text, msg_ids bigint[] default null, run_id text default null,
    workflow_id text default null, project_id text default null, key text default null,
    state text default null, reason text default null, requested_by text default null,
    max_jobs integer default 1000)
returns table (msg_id bigint, result text, was text, at timestamptz)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    asked jsonb := jsonb_build_object('msg_ids', msg_ids[1:100], 'run_id', run_id,
        'workflow_id', workflow_id, 'project_id', project_id, 'key', key, 'state', state);
begin
    perform meshhook.check_queue(queue);
    msg_ids := coalesce(msg_ids, meshhook.matching_messages(
        queue, run_id, workflow_id, project_id, key, state, max_jobs));
    requested_by := coalesce(nullif(requested_by, ''), session_user);
    reason := coalesce(nullif(reason, ''), 'cancelled by ' || requested_by);
    return query execute '
        with changed as materialized (
            select * from meshhook.cancel_messages($1, $2, null, $3, $4, $5)
        ), written as materialized (
            select meshhook.audit(''jobs.cancelled'', $1, $6,
                count(*) filter (where c.result in (''cancelled'', ''requested'')),
                jsonb_build_object(''reason'', left($7, 500), ''requested_by'', left($4, 200)))
            from changed c
        )
        -- Asked for, so that it is written.
        select c.* from changed c where (select count(*) from written) >= 0'
        using queue, msg_ids, array_fill(reason, array[cardinality(msg_ids)]), requested_by, state,
            asked, reason;
end
$$;

-- As before, and in the audit log.
create or replace function meshhook.reschedule(
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
    at := coalesce(at, clock_timestamp() + delay);
    return query execute '
        with changed as materialized (
            select * from meshhook.move_messages($1, $2, $3, $4)
        ), written as materialized (
            select meshhook.audit(''jobs.rescheduled'', $1, $5,
                count(*) filter (where c.result = ''rescheduled''),
                jsonb_build_object(''at'', $3))
            from changed c
        )
        select c.* from changed c where (select count(*) from written) >= 0'
        using queue, coalesce(msg_ids, meshhook.matching_messages(
                queue, run_id, workflow_id, project_id, key, state, max_jobs)),
            at, state,
            jsonb_build_object('msg_ids', msg_ids[1:100], 'run_id', run_id,
                'workflow_id', workflow_id, 'project_id', project_id, 'key', key, 'state', state);
end
$$;

-- As before, and in the audit log.
create or replace function meshhook.run_now(
    queue text, msg_ids bigint[] default null, run_id text default null,
    workflow_id text default null, project_id text default null, key text default null,
    state text default null, max_jobs integer default 1000)
returns table (msg_id bigint, result text, was text, ready_at timestamptz)
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform meshhook.check_queue(queue);
    return query execute '
        with changed as materialized (
            select * from meshhook.move_messages($1, $2, null, $3)
        ), written as materialized (
            select meshhook.audit(''jobs.run_now'', $1, $4,
                count(*) filter (where c.result = ''rescheduled''))
            from changed c
        )
        select c.* from changed c where (select count(*) from written) >= 0'
        using queue, coalesce(msg_ids, meshhook.matching_messages(
                queue, run_id, workflow_id, project_id, key, state, max_jobs)), state,
            jsonb_build_object('msg_ids', msg_ids[1:100], 'run_id', run_id,
                'workflow_id', workflow_id, 'project_id', project_id, 'key', key, 'state', state);
end
$$;

-- What deletes jobs, without a word in the audit log; meshhook.delete_jobs is for everybody.
alter function meshhook.delete_jobs(text, bigint[], text) rename to erase_jobs;

-- Deletes jobs that do not run with everything about them: the message, a dead letter, the history.
-- For each job `result` is deleted, unchanged or not_found; and `was` its state or outcome.
-- Locks and indexes: see meshhook.erase_jobs.
create function meshhook.delete_jobs(queue text, msg_ids bigint[], state text default null)
returns table (msg_id bigint, result text, was text)
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    return query execute '
        with changed as materialized (
            select * from meshhook.erase_jobs($1, $2, $3)
        ), written as materialized (
            select meshhook.audit(''jobs.deleted'', $1, $4,
                count(*) filter (where c.result = ''deleted''))
            from changed c
        )
        select c.* from changed c where (select count(*) from written) >= 0'
        using queue, msg_ids, state,
            jsonb_build_object('msg_ids', msg_ids[1:100], 'state', state);
end
$$;

comment on function meshhook.erase_jobs(text, bigint[], text) is
    'What meshhook.delete_jobs does, without a row in the audit log.';
comment on function meshhook.delete_jobs(text, bigint[], text) is
    'Deletes jobs that do not run, with their dead letters and history. For owners.';

-- * Topics

-- As before, and in the audit log.
create or replace function meshhook.bind_topic(queue text, pattern text) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    is_bound boolean := exists (
        select from pgmq.topic_bindings b
        where b.queue_name = bind_topic.queue and b.pattern = bind_topic.pattern);
begin
    perform pgmq.bind_topic(bind_topic.pattern, bind_topic.queue);
    if not is_bound then
        perform meshhook.audit('topic.bound', bind_topic.queue,
            jsonb_build_object('pattern', bind_topic.pattern));
    end if;
    return not is_bound;
end
$$;

-- As before, and in the audit log.
create or replace function meshhook.unbind_topic(queue text, pattern text) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    was_bound boolean := pgmq.unbind_topic(unbind_topic.pattern, unbind_topic.queue);
begin
    if was_bound then
        perform meshhook.audit('topic.unbound', unbind_topic.queue,
            jsonb_build_object('pattern', unbind_topic.pattern));
    end if;
    return was_bound;
end
$$;

-- * Retention

-- Deletes rows of the audit log that are older than meshhook.audit_settings says, at most 5,000,
-- for whoever may run it. Returns how many went.
-- Locks: the rows it deletes. Index: the primary key.
create function meshhook.delete_past_audit_entries() returns integer
language sql security definer set search_path = pg_catalog, pg_temp as $$
    with gone as (
        delete from meshhook.audit_log a
        where a.id in (select o.id from meshhook.audit_log o order by o.id limit 5000)
          and a.at < now() - make_interval(
            days => (select s.retention_days from meshhook.audit_settings s))
        returning 1
    )
    select count(*)::integer from gone
$$;

-- * Rights

revoke execute on function meshhook.audit(text, text, jsonb, bigint, jsonb),
    meshhook.delete_past_audit_entries(), meshhook.audit_queue_config(),
    meshhook.audit_settings_changed(), meshhook.audit_keys(), meshhook.audit_schedules(),
    meshhook.audit_manual_firing(), meshhook.audit_roles() from public;

-- Functions with arguments, too.
alter table meshhook.role_grants
    drop constraint role_grants_object_check,
    add constraint role_grants_object_check check (
        object ~ '^(queue|dead_letters|archive|queue_sequence|waiting|schema (meshhook|pgmq)'
            '|table (meshhook|pgmq)\.[a-z_]+|function meshhook\.[a-z_]+\([a-z,]*\))$');

insert into meshhook.role_grants (role, kind, object, privilege)
    select r.role, r.kind, g.object, g.privilege
    from meshhook.roles r
    join (values
        ('worker', 'function meshhook.audit(text,text,jsonb,bigint,jsonb)', 'execute'),
        ('worker', 'function meshhook.delete_past_audit_entries()', 'execute'),
        ('oncall', 'function meshhook.audit(text,text,jsonb,bigint,jsonb)', 'execute'),
        ('operator', 'function meshhook.audit(text,text,jsonb,bigint,jsonb)', 'execute'),
        ('reader', 'table meshhook.audit_log', 'select'),
        ('oncall', 'table meshhook.audit_log', 'select'),
        ('reader', 'table meshhook.audit_settings', 'select'),
        ('oncall', 'table meshhook.audit_settings', 'select')
    ) as g (kind, object, privilege) on g.kind = r.kind
    on conflict do nothing;

do $$
declare
    part record;
begin
    for part in
        select a.rolname as name, g.object, g.privilege
        from meshhook.role_grants g join pg_roles a on a.oid = g.role
        where g.object in ('table meshhook.audit_log', 'table meshhook.audit_settings',
            'function meshhook.audit(text,text,jsonb,bigint,jsonb)',
            'function meshhook.delete_past_audit_entries()')
        union
        -- Roles that were granted their rights by hand: whoever may change a setting, cordon,
        -- or take messages or dead letters out of a queue.
        select r.rolname, 'function meshhook.audit(text,text,jsonb,bigint,jsonb)', 'execute'
        from pg_roles r
        where exists (
                select from pg_class c
                cross join lateral (
                    select a.grantee, a.privilege_type from aclexplode(c.relacl) a
                    union all
                    select a.grantee, a.privilege_type
                    from pg_attribute t, aclexplode(t.attacl) a where t.attrelid = c.oid) a
                where c.oid in ('meshhook.queue_config'::regclass, 'meshhook.keys'::regclass,
                        'meshhook.cancellations'::regclass)
                  and a.privilege_type in ('INSERT', 'UPDATE', 'DELETE')
                  and a.grantee = r.oid and c.relowner <> r.oid)
            or exists (
                select from pg_class c, aclexplode(c.relacl) a
                where c.relnamespace = 'pgmq'::regnamespace and c.relkind in ('r', 'p')
                  and c.relname ~ '^q_.*' and a.privilege_type = 'DELETE'
                  and a.grantee = r.oid and c.relowner <> r.oid)
        union
        select r.rolname, 'function meshhook.delete_past_audit_entries()', 'execute'
        from pg_roles r
        where exists (
            select from pg_attribute t, aclexplode(t.attacl) a
            where t.attrelid = 'meshhook.workers'::regclass and t.attname = 'busy_seconds'
              and a.privilege_type = 'UPDATE' and a.grantee = r.oid)
    loop
        execute format('grant %s on %s to %I', part.privilege, part.object, part.name);
    end loop;
end
$$;
