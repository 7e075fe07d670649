-- Roles of least privilege: what each may do, written down and granted in one place, and row level
-- security by queue for those that are for some queues only.
-- Locks: ACCESS EXCLUSIVE on meshhook.workers for its trigger, and on the views. Row level security
-- stays off until the first role for some queues only is made. Time at size: milliseconds.

create table meshhook.roles (
    role regrole not null,
    kind text not null
        check (kind in ('owner', 'worker', 'producer', 'reader', 'oncall', 'operator')),
    queues text[] check (pg_catalog.cardinality(queues) > 0),
    primary key (role, kind)
);

comment on table meshhook.roles is
    'The roles that meshhook roles made or granted to. A role may be of several kinds.';
comment on column meshhook.roles.queues is
    'The queues that it is for; null means all, those to come too.';

create table meshhook.role_grants (
    role regrole not null,
    kind text not null,
    object text not null check (object ~ '^(queue|dead_letters|archive|queue_sequence|waiting'
        '|schema (meshhook|pgmq)|table (meshhook|pgmq)\.[a-z_]+|function meshhook\.[a-z_]+\(\))$'),
    privilege text not null
        check (privilege in ('select', 'insert', 'update', 'delete', 'usage', 'create', 'execute')),
    columns text[] check (pg_catalog.cardinality(columns) > 0),
    primary key (role, kind, object, privilege),
    foreign key (role, kind) references meshhook.roles on delete cascade
);

comment on table meshhook.role_grants is
    'What each of meshhook.roles may do: meshhook.apply_role grants it, and create_queue for a new '
    'queue.';
comment on column meshhook.role_grants.object is
    'queue, dead_letters, archive, queue_sequence and waiting mean that of each of its queues.';
comment on column meshhook.role_grants.columns is
    'The columns that the privilege is for; null means all.';

-- A role sees what it is itself; who makes queues must know of all, since it grants on them.
alter table meshhook.roles enable row level security;
create policy own_roles on meshhook.roles for select using (
    pg_catalog.pg_has_role(role::oid, 'member'::text)
    or pg_catalog.has_table_privilege('meshhook.role_grants'::text, 'select'::text));

-- Grants what roles need on one queue, where this role owns its tables: what is missing or owned by
-- another is left out, and so are columns that an older PGMQ does not have.
-- Locks: none. Waits for whoever makes roles.
create function meshhook.grant_queue(queue_name text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    part record;
begin
    -- A role that is being made does not see this queue yet: it is waited for, or waits.
    perform pg_advisory_xact_lock_shared(hashtext('meshhook.roles'));
    for part in
        select g.privilege, a.rolname, o.name, c.relkind,
            case when g.columns is null then '' else (
                select ' (' || string_agg(quote_ident(t.attname), ', ' order by t.attnum) || ')'
                from pg_attribute t
                where t.attrelid = c.oid and t.attname = any (g.columns) and not t.attisdropped
            ) end as columns
        from meshhook.roles r
        join meshhook.role_grants g on g.role = r.role and g.kind = r.kind
        join pg_roles a on a.oid = r.role
        join (values
            ('queue', format('pgmq.%I', 'q_' || grant_queue.queue_name)),
            ('dead_letters', format('pgmq.%I', 'q_' || grant_queue.queue_name || '_dlq')),
            ('archive', format('pgmq.%I', 'a_' || grant_queue.queue_name)),
            ('queue_sequence', case when
                to_regclass(format('pgmq.%I', 'q_' || grant_queue.queue_name)) is not null
                then pg_get_serial_sequence(
                    format('pgmq.%I', 'q_' || grant_queue.queue_name), 'msg_id') end),
            ('waiting', format('meshhook.%I', 'waiting_' || grant_queue.queue_name))
        ) as o (object, name) on o.object = g.object
        join pg_class c on c.oid = to_regclass(o.name)
        where (r.queues is null or grant_queue.queue_name = any (r.queues))
          and c.relowner <> r.role::oid and pg_has_role(c.relowner, 'usage')
        order by o.name, a.rolname, g.privilege
    loop
        continue when part.columns is null;
        execute format('grant %s%s on %s %s to %I', part.privilege, part.columns,
            case part.relkind when 'S' then 'sequence' else 'table' end, part.name, part.rolname);
    end loop;
end
$$;

-- Turns row level security by queue on, on the tables that queues share. Whoever was granted
-- something on them before goes on seeing every row. The owner does so in any case.
-- Locks: ACCESS EXCLUSIVE on the three tables, if it is off yet.
create function meshhook.separate_queues() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    part record;
    grantee record;
begin
    for part in
        select c.oid, c.relname, c.relowner, c.relrowsecurity
        from pg_class c
        where c.oid in ('meshhook.queue_config'::regclass, 'meshhook.job_attempts'::regclass,
                        'meshhook.workers'::regclass)
        order by c.relname
    loop
        for grantee in
            select distinct a.grantee as oid, r.rolname
            from (
                select (aclexplode(c.relacl)).grantee from pg_class c where c.oid = part.oid
                union
                select (aclexplode(t.attacl)).grantee from pg_attribute t
                where t.attrelid = part.oid
            ) a
            left join pg_roles r on r.oid = a.grantee
            where a.grantee <> part.relowner
        loop
            if grantee.oid = 0 then
                raise exception 'PUBLIC may use meshhook.%: every role would see the rows of every '
                    'queue. Run first: revoke all on meshhook.% from public',
                    part.relname, part.relname
                    using errcode = 'object_not_in_prerequisite_state';
            end if;
            continue when part.relrowsecurity or grantee.rolname is null or exists (
                select from pg_policy p
                where p.polrelid = part.oid and grantee.oid = any (p.polroles));
            execute format('create policy %I on meshhook.%I to %I using (true) with check (true)',
                grantee.rolname, part.relname, grantee.rolname);
        end loop;
        if not part.relrowsecurity then
            execute format('alter table meshhook.%I enable row level security', part.relname);
        end if;
    end loop;
end
$$;

-- Gives a role of meshhook.roles exactly what stands there: takes from it what was granted to it
-- itself in the two schemas, and grants what its kinds need. Safe to repeat.
-- Locks: ACCESS EXCLUSIVE on each shared table whose policy for the role changes; waits a second.
create function meshhook.apply_role(role_name text) returns void
language plpgsql set lock_timeout = '1s' set search_path = pg_catalog, pg_temp as $$
declare
    role_oid oid;
    schema_owner oid;
    part record;
    wanted text;
    found_policy record;
    is_divided boolean := false;
begin
    -- One at a time: two grants on one table at once would fail.
    perform pg_advisory_xact_lock(hashtext('meshhook.roles'));
    select r.oid into role_oid from pg_roles r where r.rolname = role_name;
    if role_oid is null then
        raise exception 'role % does not exist', quote_ident(role_name)
            using errcode = 'undefined_object';
    end if;
    delete from meshhook.roles r where not exists (select from pg_roles a where a.oid = r.role);
    for part in
        select format('%s %s', case c.relkind when 'S' then 'sequence' else 'table' end,
            c.oid::regclass) as name
        from pg_class c
        where c.relnamespace in ('meshhook'::regnamespace, 'pgmq'::regnamespace)
          and c.relowner <> role_oid and pg_has_role(c.relowner, 'usage')
          and (exists (select from aclexplode(c.relacl) a where a.grantee = role_oid)
               or exists (select from pg_attribute t, aclexplode(t.attacl) a
                          where t.attrelid = c.oid and a.grantee = role_oid))
        union all
        select format('schema %I', n.nspname) from pg_namespace n, aclexplode(n.nspacl) a
        where n.nspname in ('meshhook', 'pgmq') and a.grantee = role_oid
          and n.nspowner <> role_oid and pg_has_role(n.nspowner, 'usage')
        union all
        select format('routine %s', p.oid::regprocedure) from pg_proc p, aclexplode(p.proacl) a
        where p.pronamespace = 'meshhook'::regnamespace and a.grantee = role_oid
          and p.proowner <> role_oid and pg_has_role(p.proowner, 'usage')
        order by 1
    loop
        execute format('revoke all on %s from %I', part.name, role_name);
    end loop;
    for part in
        select g.privilege, split_part(g.object, ' ', 1) as type,
            split_part(g.object, ' ', 2) as name,
            (select ' (' || string_agg(quote_ident(n), ', ' order by n) || ')'
             from unnest(g.columns) as u (n)) as columns,
            c.relkind = 'v' and r.queues is not null
                and coalesce(c.reloptions::text, '') !~ 'security_invoker=true' as shows_all
        from meshhook.roles r
        join meshhook.role_grants g on g.role = r.role and g.kind = r.kind
        left join pg_class c on c.oid = case when g.object like 'table %'
            then to_regclass(split_part(g.object, ' ', 2)) end
        where r.role = role_oid and g.object like '% %'
          and (c.oid is not null or g.object not like 'table %')
        order by g.object, g.privilege
    loop
        -- Before PostgreSQL 15 a view shows whoever may read it what its owner may see.
        continue when part.shows_all;
        execute format('grant %s%s on %s %s to %I',
            part.privilege, part.columns, part.type, part.name, role_name);
    end loop;
    perform meshhook.grant_queue(c.queue_name) from meshhook.queue_config c
        where exists (select from meshhook.roles r where r.role = role_oid
                      and (r.queues is null or c.queue_name = any (r.queues)));
    for part in
        select t.name, t.queue_column, t.name::regclass as oid, bool_or(r.queues is null) as is_all,
            array_agg(distinct u.queue order by u.queue) as queues
        from (values ('meshhook.queue_config', 'queue_name'), ('meshhook.job_attempts', 'queue'),
                     ('meshhook.workers', 'queue')) as t (name, queue_column)
        left join meshhook.roles r on r.role = role_oid and exists (
            select from meshhook.role_grants g
            where g.role = r.role and g.kind = r.kind and g.object = 'table ' || t.name)
        left join unnest(r.queues) as u (queue) on true
        group by t.name, t.queue_column
        having bool_or(r.role is not null)
        order by t.name
    loop
        wanted := case when part.is_all then 'true'
            else format('(%I = ANY (%L::text[]))', part.queue_column, part.queues) end;
        is_divided := is_divided or not part.is_all;
        select p.polname, pg_get_expr(p.polqual, p.polrelid) as condition into found_policy
            from pg_policy p where p.polrelid = part.oid and p.polroles = array[role_oid];
        continue when found_policy.condition = wanted;
        if found_policy.polname is not null then
            execute format('drop policy %I on %s', found_policy.polname, part.name);
        end if;
        execute format('create policy %I on %s to %I using %s with check %s',
            role_name, part.name, role_name, '(' || wanted || ')', '(' || wanted || ')');
    end loop;
    if is_divided then
        perform meshhook.separate_queues();
    end if;
    -- The owner of the schemas must be able to grant on what an operator makes, and to mend it.
    select n.nspowner into schema_owner from pg_namespace n where n.nspname = 'meshhook';
    if exists (select from meshhook.roles r where r.role = role_oid and r.kind = 'operator')
        and not pg_has_role(schema_owner, role_oid, 'usage')
    then
        execute format('grant %I to %s', role_name, schema_owner::regrole);
    end if;
end
$$;

-- * What a worker may have done without the right to do it itself

-- Makes the history's partitions for the coming week, for whoever may run it.
create function meshhook.make_coming_partitions() returns integer
language sql security definer set default_tablespace = '' set default_table_access_method = 'heap'
set search_path = pg_catalog, pg_temp as $$
    select meshhook.create_attempt_partitions()
$$;

-- Drops the history's partitions that no queue keeps, for whoever may run it.
create function meshhook.drop_past_partitions() returns integer
language sql security definer set search_path = pg_catalog, pg_temp as $$
    select meshhook.drop_expired_attempt_partitions()
$$;

-- Deletes attempts that their own queue no longer keeps, for whoever may run it. Who may delete
-- from a table may also lock it against everybody: so no worker may.
create function meshhook.delete_past_attempts() returns integer
language sql security definer set search_path = pg_catalog, pg_temp as $$
    select meshhook.delete_expired_attempts()
$$;

-- Deletes the row of a worker that says it is gone, by a time that no other report has.
create function meshhook.delete_withdrawn_worker() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if tg_relid = 'meshhook.workers'::regclass then
        delete from meshhook.workers w
            where w.queue = new.queue and w.worker = new.worker and w.seen_at = '-infinity';
    end if;
    return null;
end
$$;

create trigger delete_withdrawn_worker
    after update on meshhook.workers
    for each row when (new.seen_at = '-infinity')
    execute function meshhook.delete_withdrawn_worker();

-- What runs with its owner's rights is not for everybody. Operators and workers that were granted
-- their rights by hand go on making queues and keeping house.
revoke execute on function meshhook.wake_waiting_workers(), meshhook.make_coming_partitions(),
    meshhook.drop_past_partitions(), meshhook.delete_past_attempts(),
    meshhook.delete_withdrawn_worker(), meshhook.apply_role(text), meshhook.separate_queues()
    from public;

do $$
declare
    maker record;
    worker record;
begin
    for maker in
        select distinct a.grantee::regrole as name
        from pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a
        where n.nspname = 'meshhook' and a.privilege_type = 'CREATE'
          and a.grantee <> n.nspowner and a.grantee <> 0
    loop
        execute pg_catalog.format(
            'grant execute on function meshhook.wake_waiting_workers() to %s', maker.name);
    end loop;
    for worker in
        select distinct a.grantee::regrole as name
        from pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
        where c.oid = 'meshhook.job_attempts'::pg_catalog.regclass::oid
          and a.privilege_type = 'DELETE'
          and a.grantee <> c.relowner and a.grantee <> 0
    loop
        execute pg_catalog.format(
            'grant execute on function meshhook.make_coming_partitions(), '
            'meshhook.drop_past_partitions(), meshhook.delete_past_attempts() to %s', worker.name);
    end loop;
    -- Views show what their reader may see, not what their owner may.
    if pg_catalog.current_setting('server_version_num')::integer >= 150000 then
        alter view meshhook.job_tracking set (security_invoker = true);
        alter view meshhook.job_statistics set (security_invoker = true);
        alter view meshhook.queue_monitoring set (security_invoker = true);
    end if;
end
$$;

-- * Rows that a worker would not see

-- Whether the condition of a policy holds for this role on every row of one queue, whose name
-- stands in the column `queue_column`. One that names another column fails here, and may hide rows.
create function meshhook.policy_holds(condition text, queue_column text, queue_name text)
returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    holds boolean;
begin
    execute format('select (%s) from (values ($1)) as row_of_queue (%I)',
        coalesce(condition, 'true'), queue_column) into holds using queue_name;
    return coalesce(holds, false);
exception when others then
    return false;
end
$$;

-- The tables of a queue, and those that queues share, of which row level security hides rows of
-- this queue from this role: each that has no permissive policy that always holds for what a worker
-- does with it, or has a restrictive one that may not. Locks: none.
create or replace function meshhook.hidden_tables(queue_name text) returns text[]
language sql set search_path = pg_catalog, pg_temp as $$
    with needed as (
        select to_regclass(t.table_name) as oid, t.table_name, t.queue_column, c.command
        from (values (format('pgmq.%I', 'q_' || queue_name), 'none', array['r', 'w', 'd']),
                     (format('pgmq.%I', 'q_' || queue_name || '_dlq'), 'none', array['r', 'a']),
                     (format('pgmq.%I', 'a_' || queue_name), 'none', array['a']),
                     ('meshhook.queue_config', 'queue_name', array['r']),
                     ('meshhook.job_attempts', 'queue', array['r', 'a'])
            ) as t (table_name, queue_column, commands)
        cross join lateral unnest(t.commands) as c (command)
        -- What it may not do at all is refused by itself, and in better words.
        where row_security_active(to_regclass(t.table_name)) and case c.command
            when 'r' then has_any_column_privilege(to_regclass(t.table_name), 'select')
            when 'a' then has_any_column_privilege(to_regclass(t.table_name), 'insert')
            when 'w' then has_any_column_privilege(to_regclass(t.table_name), 'update')
            else has_table_privilege(to_regclass(t.table_name), 'delete') end
    ), policy as (
        select n.table_name, n.command, p.polpermissive as is_permissive,
            meshhook.policy_holds(
                pg_get_expr(p.polqual, p.polrelid), n.queue_column, hidden_tables.queue_name)
            and meshhook.policy_holds(
                pg_get_expr(p.polwithcheck, p.polrelid), n.queue_column, hidden_tables.queue_name)
            as holds
        from needed n
        join pg_policy p on p.polrelid = n.oid and p.polcmd::text in ('*', n.command)
        where 0 = any (p.polroles) or exists (
            select from unnest(p.polroles) as r (oid) where pg_has_role(r.oid, 'usage'))
    )
    select coalesce(array_agg(distinct n.table_name order by n.table_name), '{}')
    from needed n
    where not exists (
            select from policy p
            where p.table_name = n.table_name and p.command = n.command
              and p.is_permissive and p.holds)
        or exists (
            select from policy p
            where p.table_name = n.table_name and p.command = n.command
              and not p.is_permissive and not p.holds)
$$;

-- * Queues

-- Creates a queue with its dead letter queue, its settings and its wake-up, or adopts an existing
-- PGMQ queue of that name. Safe to repeat and to race. Returns whether anything was new.
-- Locks: none on the tables of a queue that is complete. To add the trigger to a queue in use,
-- SHARE ROW EXCLUSIVE on its table; to add the indexes to dead letters that are there, SHARE on
-- theirs: for at most a second of waiting. Above 64 MB of dead letters the indexes are left to the
-- administrator: the operations guide has the statements, which build them concurrently.
-- Waits five seconds for another who creates or drops the same queue.
create or replace function meshhook.create_queue(queue_name text, ignore_fifo_groups boolean)
returns boolean
language plpgsql set lock_timeout = '5s' set search_path = pg_catalog, pg_temp as $$
declare
    queue_table text := 'q_' || queue_name;
    dlq_table text := 'q_' || queue_name || '_dlq';
    waiting text := 'waiting_' || queue_name;
    is_small boolean;
    is_new boolean;
begin
    perform meshhook.check_queue_name(queue_name);
    perform pg_advisory_xact_lock(hashtext('meshhook.queue.' || queue_name));
    perform set_config('lock_timeout', '1s', true);
    -- Reads the catalog afresh: what another made while this waited is not in the cache yet.
    perform from pg_catalog.pg_class limit 0;
    -- Without the trigger it is another table than the one that was adopted.
    if not exists (
            select from meshhook.queue_config c where c.queue_name = create_queue.queue_name)
        or not exists (
            select from pg_trigger
            where tgrelid = to_regclass(format('pgmq.%I', queue_table))
              and tgname = 'meshhook_wake_waiting_workers')
        or to_regclass(format('pgmq.%I', dlq_table)) is null
    then
        perform meshhook.check_adoptable(queue_name, ignore_fifo_groups);
    end if;
    is_new := to_regclass(format('pgmq.%I', queue_table)) is null;
    if is_new then
        perform pgmq.create(queue_name);
        -- A queue's rows are short-lived: clean up by count, not by share of the table.
        execute format('alter table pgmq.%I set (autovacuum_vacuum_scale_factor = 0.01,
            autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0,
            autovacuum_analyze_scale_factor = 0.05)', queue_table);
    end if;
    if to_regclass(format('pgmq.%I', dlq_table)) is null then
        perform pgmq.create(queue_name || '_dlq');
        is_new := true;
    end if;
    -- For looking dead letters up by their error, and by the job that they were. `if not exists`
    -- would lock the table before it looks.
    is_small := pg_relation_size(format('pgmq.%I', dlq_table)::regclass) < 67108864;
    if is_small and to_regclass(format('pgmq.%I', dlq_table || '_error_idx')) is null then
        execute format($index$create index %I on pgmq.%I
            (left(headers #>> '{meshhook-dead-letter,error_type}', 200), msg_id)$index$,
            dlq_table || '_error_idx', dlq_table);
    end if;
    if is_small and to_regclass(format('pgmq.%I', dlq_table || '_origin_idx')) is null then
        execute format($index$create index %I on pgmq.%I
            (left(headers #>> '{meshhook-dead-letter,msg_id}', 20), msg_id)$index$,
            dlq_table || '_origin_idx', dlq_table);
    end if;
    if to_regclass(format('meshhook.%I', waiting)) is null then
        -- Logged: an unlogged one may be unreadable after a promotion. A worker that waits writes
        -- some 100 bytes of log a second.
        execute format('create sequence meshhook.%I', waiting);
        -- The trigger reads it with the rights of its owner.
        execute (
            select format('grant select on sequence meshhook.%I to %s',
                waiting, p.proowner::regrole)
            from pg_proc p where p.oid = 'meshhook.wake_waiting_workers()'::regprocedure);
        is_new := true;
    end if;
    if not exists (
        select from pg_trigger
        where tgrelid = format('pgmq.%I', queue_table)::regclass
          and tgname = 'meshhook_wake_waiting_workers')
    then
        execute format('create trigger meshhook_wake_waiting_workers
            after insert on pgmq.%I for each statement
            execute function meshhook.wake_waiting_workers(%L, %L)',
            queue_table, format('meshhook.%I', waiting), 'meshhook_wake_' || queue_name);
        is_new := true;
    end if;
    insert into meshhook.queue_config (queue_name) values (create_queue.queue_name)
        on conflict on constraint queue_config_pkey do nothing;
    is_new := is_new or found;
    -- Roles that are for this queue, or for all. Whoever may not know of them grants nothing.
    if is_new and has_table_privilege('meshhook.role_grants', 'select') then
        perform meshhook.grant_queue(queue_name);
    end if;
    return is_new;
end
$$;
