-- A queue that is created again, after somebody dropped its tables by PGMQ and so left its
-- settings, gets the indexes and triggers that they need; what its former jobs held does not bind
-- new ones. And a queue is not empty as long as one of its groups owes its callback.
-- Locks: SHARE ROW EXCLUSIVE on meshhook.queue_config for the trigger. Time at size: milliseconds;
-- no queue is touched.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

-- Forgets the unique keys of the jobs of a queue whose table is a new one. A key that a job has for
-- a time outlives the job's message, and would keep out jobs in favour of one that is nowhere.
-- Runs with its owner's rights: who creates queues needs none on the keys.
create function meshhook.forget_former_unique_keys() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if tg_relid = 'meshhook.queue_config'::regclass then
        delete from meshhook.unique_keys u where u.queue = new.queue_name;
    end if;
    return null;
end
$$;

create trigger forget_former_unique_keys
    after update of adopted_msg_id on meshhook.queue_config
    for each row execute function meshhook.forget_former_unique_keys();

revoke execute on function meshhook.forget_former_unique_keys() from public;

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
    is_dlq_new boolean;
    statement text;
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
    is_dlq_new := to_regclass(format('pgmq.%I', dlq_table)) is null;
    if is_dlq_new then
        perform pgmq.create(queue_name || '_dlq');
    end if;
    -- Settings that are there already are those of tables that somebody dropped.
    if is_new and exists (
        select from meshhook.queue_config c where c.queue_name = create_queue.queue_name)
    then
        update meshhook.queue_config c set adopted_msg_id = 0
            where c.queue_name = create_queue.queue_name;
        for statement in
            select k.statement
            from meshhook.queue_config c
            cross join lateral meshhook.key_index_statements(
                c.queue_name, c.keyed, c.key_path, false, c.ordered)
                with ordinality as k (statement, position)
            where c.queue_name = create_queue.queue_name and c.keyed
            order by k.position
        loop
            execute statement;
        end loop;
    end if;
    if is_dlq_new and exists (
        select from meshhook.keys k
        where k.queue = create_queue.queue_name and k.held_by_dead_letter is not null)
    then
        update meshhook.keys k set held_until = null, held_at = null, held_by = null,
                hold_reason = null, held_by_dead_letter = null, held_by_job = null
            where k.queue = create_queue.queue_name and k.held_by_dead_letter is not null;
    end if;
    if is_dlq_new then
        perform meshhook.set_block_triggers(c.queue_name, true)
            from meshhook.queue_config c
            where c.queue_name = create_queue.queue_name and c.on_dead_letter = 'block';
    end if;
    is_new := is_new or is_dlq_new;
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

-- Drops a queue if it holds neither messages nor dead letters, and none of its groups has a
-- callback that is not enqueued yet: with the queue it would be lost. Returns whether it is gone; a
-- queue that was not there counts as gone. A role that may not read groups does not ask for them.
-- Locks: none if it holds any. Else ACCESS EXCLUSIVE on its tables, for a second look and the drop;
-- waits at most a second for them.
create or replace function meshhook.drop_queue_if_empty(queue_name text) returns boolean
language plpgsql set lock_timeout = '5s' set search_path = pg_catalog, pg_temp as $$
declare
    name text;
    names text[] := array['q_' || queue_name, 'q_' || queue_name || '_dlq'];
    is_locked boolean;
    holds_any boolean;
begin
    perform meshhook.check_queue_name(queue_name);
    perform pg_advisory_xact_lock(hashtext('meshhook.queue.' || queue_name));
    -- Reads the catalog afresh: what another made while this waited is not in the cache yet.
    perform from pg_catalog.pg_class limit 0;
    foreach is_locked in array array[false, true] loop
        if is_locked then
            perform meshhook.lock_tables(names);
        end if;
        foreach name in array names loop
            continue when to_regclass(format('pgmq.%I', name)) is null;
            execute format('select exists (select from pgmq.%I)', name) into holds_any;
            if holds_any then
                return false;
            end if;
        end loop;
        -- Apart, since a statement is refused for what it only might read.
        if has_column_privilege('meshhook.job_groups', 'callback_id', 'select') then
            if exists (
                select from meshhook.job_groups g
                where g.queue = drop_queue_if_empty.queue_name
                  and g.callback_queue is not null and g.callback_id is null)
            then
                return false;
            end if;
        end if;
    end loop;
    perform meshhook.drop_queue(queue_name);
    return true;
end
$$;

-- * Roles made before

do $$
declare
    grantee record;
begin
    for grantee in
        select distinct m.role::text as name from meshhook.roles m where m.kind = 'operator'
    loop
        execute format('grant select (queue, callback_queue, callback_id) on meshhook.job_groups '
            'to %s', grantee.name);
    end loop;
end
$$;

insert into meshhook.role_grants (role, kind, object, privilege, columns)
    select r.role, r.kind, 'table meshhook.job_groups', 'select',
        array['queue', 'callback_queue', 'callback_id']
    from meshhook.roles r where r.kind = 'operator'
    on conflict do nothing;
