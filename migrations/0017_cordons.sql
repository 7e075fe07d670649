-- Cordons: the operator names workers that are to claim no more jobs, so that their pods can be
-- removed once the jobs that run there have ended. A cordon ends by itself, should the operator not
-- renew it. Workers report whether they obey, and for how long their oldest job has run.
-- Locks: meshhook.workers, ACCESS EXCLUSIVE, for its new columns; reports wait, and no job does.
-- Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

-- Nothing but a finite number can be read as a number of seconds by every client.
alter table meshhook.workers
    add column oldest_running_seconds double precision not null default 0
        check (oldest_running_seconds between 0 and 1e14),
    add column cordoned boolean not null default false,
    add column cordoned_until timestamptz check (isfinite(cordoned_until));

comment on column meshhook.workers.oldest_running_seconds is
    'How long the oldest running job of the queue has run; 0 if none runs.';
comment on column meshhook.workers.cordoned_until is
    'Until when the worker is asked to claim no jobs of the queue; null means that it is not.';
comment on column meshhook.workers.cordoned is
    'Whether it claimed no jobs of the queue for that reason when it reported.';

-- Cordons the live workers of one queue on these hosts for so many seconds, at most an hour, and
-- uncordons all others of the queue. Returns how many rows it wrote; one that a report is writing
-- at this moment is left to the next call.
-- Locks: the rows that it writes, and waits for none. Index: workers_pkey.
create function meshhook.cordon_workers(queue text, hosts text[], seconds double precision)
returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    written integer;
begin
    if seconds is null or not seconds between 0 and 3600 then
        raise exception 'a cordon lasts from 0 to 3600 seconds, not %', coalesce(seconds::text, 'null')
            using errcode = 'invalid_parameter_value';
    end if;
    with found as (
        select w.worker, w.host = any (hosts) and not w.draining
            and w.seen_at > now() - interval '30 seconds' as is_surplus
        from meshhook.workers w
        where w.queue = cordon_workers.queue
          and (w.host = any (hosts) or w.cordoned_until is not null)
        for no key update skip locked
    )
    update meshhook.workers w
        set cordoned_until = case when f.is_surplus then now() + make_interval(secs => seconds) end
        from found f
        where w.queue = cordon_workers.queue and w.worker = f.worker
          and (f.is_surplus or w.cordoned_until is not null);
    get diagnostics written = row_count;
    return written;
end
$$;

-- The demand of each queue named, one row each in the order given, whatever state it is in: a queue
-- that cannot be read has its reason in `problem` and disturbs no other.
-- Before it reads a queue named in `waiting`, it says that somebody waits for its messages, for the
-- next `waiting_seconds`; what is sent from then on notifies. Counts stop at `count_limit` for the
-- messages that are ready and at as many for those that are not.
-- Locks: none; waits at most 200 ms for a queue's table. Index: q_<queue>_vt_idx.
create or replace function meshhook.queue_demand(
    queue_names text[], lookahead_seconds double precision[], waiting text[],
    waiting_seconds double precision, count_limit integer default 10000)
returns table (
    queue_name text, problem text, problem_state text, config jsonb,
    sampled_at double precision, ready bigint, ready_is_capped boolean, lost bigint,
    running bigint, scheduled bigint, retrying bigint, hidden_is_capped boolean,
    due_soon bigint, next_due_seconds double precision, oldest_ready_seconds double precision,
    enqueued_total bigint, dead_letters bigint, workers jsonb)
language plpgsql volatile
set lock_timeout = '200ms' set search_path = pg_catalog, pg_temp as $$
declare
    queue_table text;
    waiting_until bigint := (extract(epoch from clock_timestamp()) + waiting_seconds) * 1000;
    place integer;
begin
    for place in 1 .. coalesce(array_length(queue_names, 1), 0) loop
        queue_name := queue_names[place];
        problem := null;
        problem_state := null;
        begin
            perform meshhook.check_queue_name(queue_name);
            select to_jsonb(c) into config from meshhook.queue_config c
                where c.queue_name = queue_names[place];
            queue_table := 'q_' || queue_name;
            if config is null
                or to_regclass(format('pgmq.%I', queue_table)) is null
                or to_regclass(format('pgmq.%I', queue_table || '_dlq')) is null
                or to_regclass(format('meshhook.%I', 'waiting_' || queue_name)) is null
            then
                raise exception 'the queue does not exist, or only in part' using errcode = 'MHQ02';
            end if;
            if queue_name = any (waiting) then
                perform setval(format('meshhook.%I', 'waiting_' || queue_name)::regclass,
                               waiting_until);
            end if;
            select jsonb_agg(jsonb_build_object(
                    'worker', w.worker, 'host', w.host, 'concurrency', w.concurrency,
                    'running', w.running, 'processed', w.processed,
                    'busy_seconds', w.busy_seconds,
                    'oldest_running_seconds', w.oldest_running_seconds,
                    'cordoned', w.cordoned and coalesce(w.cordoned_until > now(), false),
                    'cordon_seconds', coalesce(
                        greatest(extract(epoch from w.cordoned_until - now()), 0), 0),
                    'draining', w.draining,
                    'seen_at', extract(epoch from w.seen_at)))
                into workers
                from meshhook.workers w
                where w.queue = queue_names[place] and w.seen_at > now() - interval '30 seconds';
            -- One statement, so that all the numbers are of one moment.
            execute format($query$
                with visible as (
                    select q.vt, q.read_ct > 0 and q.read_ct > meshhook.settled_attempts(q.headers)
                        as is_lost
                    from pgmq.%1$I q where q.vt <= now() order by q.vt limit $1
                ), hidden as (
                    select q.vt, q.read_ct > 0 and q.read_ct > meshhook.settled_attempts(q.headers)
                        as is_running, q.read_ct = 0 as is_scheduled
                    from pgmq.%1$I q where q.vt > now() order by q.vt limit $1
                ), visible_count as (
                    select count(*) filter (where not is_lost) as ready,
                           count(*) filter (where is_lost) as lost, count(*) as n,
                           min(vt) filter (where not is_lost and isfinite(vt)) as oldest
                    from visible
                ), hidden_count as (
                    select count(*) filter (where is_running) as running,
                           count(*) filter (where is_scheduled) as scheduled,
                           count(*) filter (where not is_running and not is_scheduled) as retrying,
                           count(*) as n,
                           count(*) filter (where not is_running
                               and vt <= now() + make_interval(secs => $2)) as due_soon,
                           min(vt) filter (where not is_running and isfinite(vt)) as next_due
                    from hidden
                )
                select extract(epoch from now()), v.ready, v.n >= $1, v.lost, h.running,
                       h.scheduled, h.retrying, h.n >= $1, h.due_soon,
                       extract(epoch from h.next_due - now()),
                       coalesce(extract(epoch from now() - v.oldest), 0),
                       (select case when s.is_called then s.last_value else 0 end from %3$s s),
                       (select count(*) from (select from pgmq.%2$I limit $1) d)
                from visible_count v, hidden_count h
                $query$, queue_table, queue_table || '_dlq',
                -- Read as a table: the functions for sequences keep their locks to the end.
                pg_get_serial_sequence(format('pgmq.%I', queue_table), 'msg_id'))
                into sampled_at, ready, ready_is_capped, lost, running, scheduled, retrying,
                     hidden_is_capped, due_soon, next_due_seconds, oldest_ready_seconds,
                     enqueued_total, dead_letters
                using count_limit, lookahead_seconds[place];
            -- Rolling back gives the locks of this queue's tables back at once. Hundreds of queues
            -- would else fill the server's lock table; variables keep their values.
            raise exception using errcode = 'MHQ01';
        exception when sqlstate 'MHQ01' then
            null;
        when others then
            problem := sqlerrm;
            problem_state := sqlstate;
        end;
        return next;
    end loop;
end
$$;

-- * Roles made before
-- Workers report new columns, and operators cordon, whether `meshhook roles` granted to them or an
-- administrator did.

do $$
declare
    grantee record;
begin
    for grantee in
        select r.rolname as name, u.columns
        from (values ('worker', 'oldest_running_seconds, cordoned'), ('operator', 'cordoned_until'))
            as u (kind, columns)
        join pg_roles r on true
        where exists (
                select from meshhook.roles m where m.role = r.oid::regrole and m.kind = u.kind)
            or (u.kind = 'worker' and exists (
                select from pg_attribute t, aclexplode(t.attacl) a
                where t.attrelid = 'meshhook.workers'::regclass and t.attname = 'busy_seconds'
                  and a.privilege_type = 'UPDATE' and a.grantee = r.oid))
            or (u.kind = 'operator' and exists (
                select from pg_class c, aclexplode(c.relacl) a
                where c.oid = 'meshhook.queue_config'::regclass
                  and a.privilege_type = 'INSERT' and a.grantee = r.oid and a.grantee <> c.relowner))
    loop
        execute format('grant update (%s) on meshhook.workers to %I',
            grantee.columns, grantee.name);
    end loop;
end
$$;

update meshhook.role_grants
    set columns = columns || array['oldest_running_seconds', 'cordoned']
    where kind = 'worker' and object = 'table meshhook.workers' and privilege = 'update'
      and not 'oldest_running_seconds' = any (columns);

insert into meshhook.role_grants (role, kind, object, privilege, columns)
    select r.role, r.kind, 'table meshhook.workers', 'update', array['cordoned_until']
    from meshhook.roles r
    where r.kind = 'operator'
    on conflict do nothing;
