-- Queues that survive a promotion and logical replication, wake-ups that never cost a message,
-- careful adoption of queues of PGMQ, and a retention for archives.
-- Locks: ACCESS EXCLUSIVE on meshhook.queue_config for the new column. ACCESS EXCLUSIVE on the
-- sequences meshhook.waiting_*, on the partitions of the history, on pgmq.meta and on
-- pgmq.topic_bindings, for at most 300 ms of waiting each and 900 ms in all: what is busy is left
-- as it is, and workers come back to it once an hour.
-- Time at size: milliseconds; some 2 ms a queue. No table is rewritten or read.

alter table meshhook.queue_config add column archive_retention_days integer
    check (archive_retention_days between 1 and 36500);

comment on column meshhook.queue_config.archive_retention_days is
    'How long archived messages are kept; null means for ever.';

-- * Wake-ups

-- Whether this transaction may notify. A notification can refuse the commit that it belongs to:
-- when the server's queue of notifications is full, and in PREPARE TRANSACTION. A wake-up is worth
-- no message, and a poll makes up for it. So there is none while that queue is half full, nor on a
-- server that allows prepared transactions, unless meshhook.notify is on.
-- The setting meshhook.notify, of a transaction, session, role, database or server: on, off, auto.
create function meshhook.may_notify() returns boolean
language sql volatile set search_path = pg_catalog, pg_temp as $$
    select case
        when lower(current_setting('meshhook.notify', true)) in ('on', 'true', 'yes', '1') then true
        when lower(current_setting('meshhook.notify', true)) in ('off', 'false', 'no', '0')
            then false
        else current_setting('max_prepared_transactions')::integer = 0 end
        and pg_notification_queue_usage() < 0.5
$$;

-- Wakes waiting workers after an insert, and costs producers nothing while none waits. The
-- sequence is a word of shared state that no snapshot hides and no vacuum has to follow: until
-- when, in milliseconds since 1970, somebody waits. Runs with its owner's rights, so that a
-- producer needs none on it. A sequence that is missing or cannot be read means that nobody waits:
-- no message is refused for the sake of a wake-up. The block costs 0.3 us; it takes no transaction
-- id, since nothing is written in it.
create or replace function meshhook.wake_waiting_workers() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    begin
        if pg_sequence_last_value(to_regclass(tg_argv[0]))
            > extract(epoch from clock_timestamp()) * 1000
        then
            if meshhook.may_notify() then
                perform pg_notify(tg_argv[1], '');
            end if;
        end if;
    exception when others then
        null;
    end;
    return null;
end
$$;

create or replace function meshhook.announce_queue_config() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'UPDATE' then
        new.updated_at := now();
    end if;
    if meshhook.may_notify() then
        perform pg_notify('meshhook_config', coalesce(new.queue_name, old.queue_name));
    end if;
    return coalesce(new, old);
end
$$;

-- * What must be logged, and what must have a replica identity

-- Makes the unlogged sequences of waiting workers logged: after a promotion an unlogged one may be
-- unreadable. Gives what has no key a replica identity: a publication of all tables would else
-- refuse deletes. Returns how many are left to do, since somebody uses them or this role does not
-- own them; safe to repeat.
-- Locks: ACCESS EXCLUSIVE on each, for at most 300 ms of waiting each and 900 ms in all.
create function meshhook.mend_tables() returns integer
language plpgsql set lock_timeout = '300ms' set search_path = pg_catalog, pg_temp as $$
declare
    part record;
    privilege record;
    identity text;
    missed integer := 0;
    todo integer := 0;
begin
    for part in
        select c.oid, c.relname, c.relowner, c.relacl
        from pg_class c
        where c.relnamespace = 'meshhook'::regnamespace and c.relkind = 'S'
          and c.relpersistence = 'u' and c.relname like 'waiting\_%'
        order by c.relname
    loop
        if missed >= 3 or not pg_has_role(part.relowner, 'usage') then
            todo := todo + 1;
            continue;
        end if;
        begin
            execute format('alter sequence meshhook.%I set logged', part.relname);
        exception when lock_not_available then
            missed := missed + 1;
            todo := todo + 1;
        when others then
            -- It cannot even be read: a new one, with the rights of the old.
            begin
                execute format('drop sequence meshhook.%I', part.relname);
                execute format('create sequence meshhook.%I', part.relname);
                execute format('alter sequence meshhook.%I owner to %s',
                    part.relname, part.relowner::regrole);
                for privilege in
                    select a.grantee, a.privilege_type from aclexplode(part.relacl) a
                    where a.grantee <> part.relowner
                loop
                    execute format('grant %s on sequence meshhook.%I to %s',
                        privilege.privilege_type, part.relname,
                        case when privilege.grantee = 0 then 'public'
                            else privilege.grantee::regrole::text end);
                end loop;
            exception when lock_not_available then
                missed := missed + 1;
                todo := todo + 1;
            end;
        end;
    end loop;
    for part in
        select c.oid, c.oid::regclass as name, c.relowner
        from pg_class c
        where c.relreplident = 'd' and c.relpersistence = 'p' and c.relkind in ('r', 'p')
          and (c.oid in (select t.relid from pg_partition_tree('meshhook.job_attempts') t)
               or c.oid in (to_regclass('pgmq.meta'), to_regclass('pgmq.topic_bindings')))
          and not exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary)
        order by c.relname
    loop
        if missed >= 3 or not pg_has_role(part.relowner, 'usage') then
            todo := todo + 1;
            continue;
        end if;
        begin
            -- A unique key where there is one: cheaper, and FULL takes no generated columns.
            select format('using index %I', x.relname) into identity
                from pg_index i join pg_class x on x.oid = i.indexrelid
                where i.indrelid = part.oid and i.indisunique and i.indisvalid
                  and i.indimmediate and i.indpred is null and i.indexprs is null
                  and not exists (
                    select from pg_attribute a
                    where a.attrelid = part.oid and a.attnum = any (i.indkey)
                      and not a.attnotnull)
                order by i.indnatts, x.relname limit 1;
            execute format('alter table %s replica identity %s',
                part.name, coalesce(identity, 'full'));
        exception when lock_not_available then
            missed := missed + 1;
            todo := todo + 1;
        end;
    end loop;
    return todo;
end
$$;

-- Makes the partitions from today to `days_ahead` days later, and returns how many were new.
-- A day whose rows already stand in the default partition keeps them there.
-- Locks: SHARE UPDATE EXCLUSIVE on the parent, ACCESS EXCLUSIVE on the default partition for
-- the attach; gives up after a second of waiting and lets the next call try again.
create or replace function meshhook.create_attempt_partitions(days_ahead integer default 7)
returns integer
language plpgsql
set timezone = 'UTC' set lock_timeout = '1s' set search_path = pg_catalog, pg_temp as $$
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
        -- LIKE does not copy it.
        execute format('alter table meshhook.%I replica identity full', name);
        execute format(
            'alter table meshhook.job_attempts attach partition meshhook.%I
             for values from (%L) to (%L)', name, day::timestamptz, (day + 1)::timestamptz);
        created := created + 1;
    end loop;
    return created;
end
$$;

-- * Creating, adopting and dropping queues

-- Refuses a queue of PGMQ that MeshHook cannot work with, by the properties of its tables: SQLSTATE
-- MHQ03, or MHQ04 for one whose messages have FIFO groups. Tables that do not exist are fine.
-- Locks: none. Looks at the first thousand messages.
create function meshhook.check_adoptable(queue_name text, ignore_fifo_groups boolean)
returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    queue_table text := 'q_' || queue_name;
    archive_table text := 'a_' || queue_name;
    part record;
    found_name text;
    is_grouped boolean;
begin
    for part in
        select t.name, t.is_archive, c.oid, c.relkind, c.relpersistence, c.relispartition,
            c.relhassubclass
        from (values (queue_table, false), (queue_table || '_dlq', false),
                     (archive_table, true), (archive_table || '_dlq', true)) as t (name, is_archive)
        join pg_class c on c.relname = t.name and c.relnamespace = 'pgmq'::regnamespace
    loop
        if part.relkind = 'p' and not part.is_archive then
            raise exception using errcode = 'MHQ03', message = format(
                'pgmq.%I is partitioned: claims and their index are per table, and would visit '
                'every partition. Move its messages to a queue made by pgmq.create, or choose '
                'another name', part.name);
        end if;
        if part.relkind not in ('r', 'p') or part.relispartition then
            raise exception using errcode = 'MHQ03', message = format(
                'pgmq.%I is %s; a queue''s table must be an ordinary one. Rename it, or choose '
                'another name for the queue', part.name,
                case when part.relispartition then 'a partition of another table'
                    when part.relkind = 'f' then 'a foreign table'
                    when part.relkind in ('v', 'm') then 'a view'
                    when part.relkind = 'S' then 'a sequence'
                    when part.relkind in ('i', 'I') then 'an index' else 'no table' end);
        end if;
        if part.relkind = 'r' and part.relhassubclass
            and exists (select from pg_inherits i where i.inhparent = part.oid)
        then
            raise exception using errcode = 'MHQ03', message = format(
                'pgmq.%I has tables that inherit from it; a queue''s table must stand alone. '
                'Run: alter table CHILD no inherit pgmq.%I', part.name, part.name);
        end if;
        if part.relpersistence = 'u' then
            raise exception using errcode = 'MHQ03', message = format(
                'pgmq.%I is unlogged: its messages are lost when the server crashes or a standby '
                'is promoted. Run first: alter table pgmq.%I set logged', part.name, part.name);
        end if;
        select string_agg(format('%s %s', w.name, w.type), ', ') into found_name
            from (values ('msg_id', 'bigint'), ('read_ct', 'integer'),
                         ('enqueued_at', 'timestamp with time zone'),
                         ('vt', 'timestamp with time zone'),
                         ('message', 'jsonb'), ('headers', 'jsonb')) as w (name, type)
            where not exists (
                select from pg_attribute a
                where a.attrelid = part.oid and a.attname = w.name and not a.attisdropped
                  and format_type(a.atttypid, a.atttypmod) = w.type and a.attgenerated = '');
        if found_name is not null then
            raise exception using errcode = 'MHQ03', message = format(
                'pgmq.%I lacks what PGMQ 1.5.0 gives a queue: %s. Update PGMQ and its queues, or '
                'add the columns', part.name, found_name);
        end if;
        select a.attname into found_name
            from pg_attribute a
            where a.attrelid = part.oid and a.attnum > 0 and not a.attisdropped
              and a.attnotnull and not a.atthasdef and a.attidentity = '' and a.attgenerated = ''
              and a.attname not in ('msg_id', 'read_ct', 'enqueued_at', 'vt', 'message', 'headers')
            order by a.attnum limit 1;
        if found_name is not null then
            raise exception using errcode = 'MHQ03', message = format(
                'pgmq.%I has a column %I that is not null and has no default: nothing could be '
                'inserted. Run: alter table pgmq.%I alter column %I drop not null',
                part.name, found_name, part.name, found_name);
        end if;
        select r.rulename into found_name from pg_rewrite r
            where r.ev_class = part.oid order by r.rulename limit 1;
        if found_name is not null then
            raise exception using errcode = 'MHQ03', message = format(
                'pgmq.%I has the rule %I, which rewrites what workers do. Run: drop rule %I on '
                'pgmq.%I', part.name, found_name, found_name, part.name);
        end if;
        -- Bit 2 of tgtype: before.
        select t.tgname into found_name from pg_trigger t
            where t.tgrelid = part.oid and not t.tgisinternal and t.tgenabled <> 'D'
              and t.tgtype & 2 <> 0
            order by t.tgname limit 1;
        if found_name is not null then
            raise exception using errcode = 'MHQ03', message = format(
                'pgmq.%I has the trigger %I, which runs before each change and could undo it. Run: '
                'drop trigger %I on pgmq.%I, or make it an AFTER trigger',
                part.name, found_name, found_name, part.name);
        end if;
        continue when part.is_archive;
        if not exists (
            select from pg_index i
            where i.indrelid = part.oid and i.indisunique and i.indisvalid and i.indpred is null
              and i.indnkeyatts = 1 and i.indkey[0] = (
                  select a.attnum from pg_attribute a
                  where a.attrelid = part.oid and a.attname = 'msg_id'))
        then
            raise exception using errcode = 'MHQ03', message = format(
                'pgmq.%I has no unique index on msg_id. Run: alter table pgmq.%I add primary key '
                '(msg_id)', part.name, part.name);
        end if;
        if pg_get_serial_sequence(format('pgmq.%I', part.name), 'msg_id') is null then
            raise exception using errcode = 'MHQ03', message = format(
                'pgmq.%I gives out msg_id by no sequence of its own. Run: alter table pgmq.%I '
                'alter column msg_id add generated always as identity (restart with N)',
                part.name, part.name);
        end if;
        select c.oid::regclass into found_name from pg_class c
            where c.oid = pg_get_serial_sequence(format('pgmq.%I', part.name), 'msg_id')::regclass
              and c.relpersistence = 'u';
        if found_name is not null then
            raise exception using errcode = 'MHQ03', message = format(
                'the sequence %s is unlogged: after a crash or a promotion ids would come again. '
                'Run first: alter sequence %s set logged', found_name, found_name);
        end if;
        if not exists (
            select from pg_index i join pg_class x on x.oid = i.indexrelid
                join pg_am m on m.oid = x.relam
            where i.indrelid = part.oid and i.indisvalid and i.indpred is null
              and m.amname = 'btree' and i.indkey[0] = (
                  select a.attnum from pg_attribute a
                  where a.attrelid = part.oid and a.attname = 'vt'))
        then
            raise exception using errcode = 'MHQ03', message = format(
                'pgmq.%I has no index on vt, so that each claim would read the whole table. Run: '
                'create index concurrently %I on pgmq.%I (vt)',
                part.name, part.name || '_vt_idx', part.name);
        end if;
    end loop;
    if to_regclass(format('pgmq.%I', queue_table)) is null then
        return;
    end if;
    if to_regclass(format('pgmq.%I', archive_table)) is null then
        raise exception using errcode = 'MHQ03', message = format(
            'pgmq.%I has no archive pgmq.%I beside it. Run: select pgmq.create(%L)',
            queue_table, archive_table, queue_name);
    end if;
    if not ignore_fifo_groups then
        is_grouped := to_regclass(format('pgmq.%I', queue_table || '_fifo_idx')) is not null;
        if not is_grouped then
            execute format('select exists (
                select from (select q.headers from pgmq.%I q order by q.msg_id limit 1000) f
                where f.headers ? %L)', queue_table, 'x-pgmq-group') into is_grouped;
        end if;
        if is_grouped then
            raise exception using errcode = 'MHQ04', message = format(
                'queue %I has FIFO groups (messages with the header x-pgmq-group, or the index '
                '%I): workers of MeshHook run jobs of one group side by side and in any order. '
                'To adopt it all the same: meshhook queue create %s --ignore-fifo-groups',
                queue_name, queue_table || '_fifo_idx', queue_name);
        end if;
    end if;
end
$$;

-- Creates a queue with its dead letter queue, its settings and its wake-up, or adopts an existing
-- PGMQ queue of that name. Safe to repeat and to race. Returns whether anything was new.
-- Locks: none on the tables of a queue that is complete. To add the trigger to a queue in use,
-- SHARE ROW EXCLUSIVE on its table; to add the indexes to dead letters that are there, SHARE on
-- theirs: for at most a second of waiting. Above 64 MB of dead letters the indexes are left to the
-- administrator: the operations guide has the statements, which build them concurrently.
-- Waits five seconds for another who creates or drops the same queue.
create function meshhook.create_queue(queue_name text, ignore_fifo_groups boolean) returns boolean
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
    return is_new or found;
end
$$;

create or replace function meshhook.create_queue(queue_name text) returns boolean
language sql set search_path = pg_catalog, pg_temp as $$
    select meshhook.create_queue(queue_name, false)
$$;

-- Locks tables for a drop: all of them within a second, or none. Others wait behind a lock that is
-- waited for, and so nobody for longer. Sets lock_timeout: call it from a function that resets it.
create function meshhook.lock_tables(names text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    name text;
    started timestamptz := clock_timestamp();
    left_ms integer;
begin
    foreach name in array names loop
        continue when to_regclass(format('pgmq.%I', name)) is null;
        left_ms := 1000 - extract(epoch from clock_timestamp() - started) * 1000;
        perform set_config('lock_timeout', format('%sms', greatest(left_ms, 1)), true);
        execute format('lock table pgmq.%I in access exclusive mode', name);
    end loop;
    left_ms := 1000 - extract(epoch from clock_timestamp() - started) * 1000;
    perform set_config('lock_timeout', format('%sms', greatest(left_ms, 1)), true);
end
$$;

-- Drops a queue with all its messages, dead letters and settings; its history stays until its
-- retention ends. Returns whether there was one.
-- Locks: ACCESS EXCLUSIVE on the tables dropped, for at most a second of waiting. Waits five seconds
-- for another who creates or drops the same queue.
create or replace function meshhook.drop_queue(queue_name text) returns boolean
language plpgsql set lock_timeout = '5s' set search_path = pg_catalog, pg_temp as $$
declare
    existed boolean := false;
    name text;
begin
    perform meshhook.check_queue_name(queue_name);
    perform pg_advisory_xact_lock(hashtext('meshhook.queue.' || queue_name));
    -- Reads the catalog afresh: what another made while this waited is not in the cache yet.
    perform from pg_catalog.pg_class limit 0;
    perform meshhook.lock_tables(array['q_' || queue_name, 'a_' || queue_name,
        'q_' || queue_name || '_dlq', 'a_' || queue_name || '_dlq']);
    foreach name in array array[queue_name, queue_name || '_dlq'] loop
        if to_regclass(format('pgmq.%I', 'q_' || name)) is not null then
            perform pgmq.drop_queue(name);
            existed := true;
        end if;
        -- PGMQ folds the case of a table's name, and keeps that of the queue: of a queue made as
        -- Mixed, a row would stay with which pgmq.metrics_all() fails.
        delete from pgmq.meta m where lower(m.queue_name) = name;
    end loop;
    execute format('drop sequence if exists meshhook.%I', 'waiting_' || queue_name);
    delete from meshhook.queue_config c where c.queue_name = drop_queue.queue_name;
    return existed or found;
end
$$;

-- Drops a queue if it holds neither messages nor dead letters. Returns whether it is gone; a queue
-- that was not there counts as gone.
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
    end loop;
    perform meshhook.drop_queue(queue_name);
    return true;
end
$$;

-- Whether the condition of a policy holds for this role, whatever the row. One that names a column
-- fails here, and may hide rows.
create function meshhook.policy_holds(condition text) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    holds boolean;
begin
    execute format('select (%s)', coalesce(condition, 'true')) into holds;
    return coalesce(holds, false);
exception when others then
    return false;
end
$$;

-- The tables of a queue, and the history, of which row level security hides rows from this role:
-- each that has no permissive policy that always holds for what a worker does with it, or has a
-- restrictive one that may not. Locks: none.
create function meshhook.hidden_tables(queue_name text) returns text[]
language sql set search_path = pg_catalog, pg_temp as $$
    with needed as (
        select to_regclass(t.table_name) as oid, t.table_name, c.command
        from (values (format('pgmq.%I', 'q_' || queue_name), array['r', 'w', 'd']),
                     (format('pgmq.%I', 'q_' || queue_name || '_dlq'), array['r', 'a']),
                     (format('pgmq.%I', 'a_' || queue_name), array['a']),
                     ('meshhook.job_attempts', array['r', 'a'])) as t (table_name, commands)
        cross join lateral unnest(t.commands) as c (command)
        where row_security_active(to_regclass(t.table_name))
    ), policy as (
        select n.table_name, n.command, p.polpermissive as is_permissive,
            meshhook.policy_holds(pg_get_expr(p.polqual, p.polrelid))
            and meshhook.policy_holds(pg_get_expr(p.polwithcheck, p.polrelid)) as holds
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

-- * What people and programs look at

-- How long ago a moment was, in seconds; null for one that is infinite, since older servers cannot
-- subtract those.
create function meshhook.age_seconds(moment timestamptz) returns double precision
language sql stable parallel safe set search_path = pg_catalog, pg_temp as $$
    select case when isfinite(moment) then date_part('epoch', now() - moment) end
$$;

-- Each job's life: its state now, and what its attempts came to. A job that is gone from its
-- queue has the outcome of its last attempt as its state. A condition on run_id, or on queue and
-- msg_id, is looked up in the history by index; live messages are always read, all of them.
create or replace view meshhook.job_tracking as
with live as materialized (
    select * from meshhook.live_jobs()
), last as not materialized (
    select a.* from meshhook.job_attempts a
    where not exists (
        select from meshhook.job_attempts b
        where b.queue = a.queue and b.msg_id = a.msg_id
          and b.enqueued_at is not distinct from a.enqueued_at
          and (b.finished_at, b.attempt, b.tableoid, b.ctid)
            > (a.finished_at, a.attempt, a.tableoid, a.ctid))
)
select
    l.queue, l.msg_id, l.state, l.attempts, l.run_id, l.workflow_id, l.project_id, l.enqueued_at,
    l.vt as ready_at,
    f.started_at as last_started_at,
    f.finished_at as last_finished_at,
    f.outcome as last_outcome,
    f.worker as last_worker,
    f.error_type as last_error_type,
    f.error_message as last_error_message,
    f.replayed_as
from live l
left join last f on f.queue = l.queue and f.msg_id = l.msg_id and f.enqueued_at = l.enqueued_at
union all
select
    a.queue, a.msg_id, a.outcome, a.attempt, a.run_id, a.workflow_id, a.project_id, a.enqueued_at,
    null, a.started_at, a.finished_at, a.outcome, a.worker, a.error_type, a.error_message,
    a.replayed_as
from last a
where not exists (
    select from live l
    where l.queue = a.queue and l.msg_id = a.msg_id and l.enqueued_at = a.enqueued_at);

-- One queue at one moment. Counts stop at `count_limit` for the ready messages and at
-- `count_limit` for those that are not, so that the read is bounded whatever the depth. Times that
-- are infinite, as some other client may write them, have no age.
-- Index: q_<queue>_vt_idx.
create or replace function meshhook.queue_snapshot(
    queue_name text, count_limit integer default 10000)
returns table (
    queue text, ready bigint, scheduled bigint, running bigint, retrying bigint, lost bigint,
    capped boolean, oldest_ready_seconds double precision, oldest_message_seconds double precision,
    newest_message_seconds double precision, enqueued_total bigint, dead_letters bigint,
    dead_letters_capped boolean, oldest_dead_letter_seconds double precision, paused boolean,
    sampled_at timestamptz)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    queue_table text := 'q_' || queue_name;
begin
    perform meshhook.check_queue_name(queue_name);
    if to_regclass(format('pgmq.%I', queue_table)) is null
        or to_regclass(format('pgmq.%I', queue_table || '_dlq')) is null
    then
        return;
    end if;
    return query execute format($query$
        with visible as (
            select meshhook.message_state(q.vt, q.read_ct, q.headers) as state
            from pgmq.%1$I q where q.vt <= now() order by q.vt limit $2
        ), hidden as (
            select meshhook.message_state(q.vt, q.read_ct, q.headers) as state
            from pgmq.%1$I q where q.vt > now() order by q.vt limit $2
        ), visible_count as (
            select count(*) filter (where state = 'ready') as ready,
                   count(*) filter (where state = 'lost') as lost, count(*) as n
            from visible
        ), hidden_count as (
            select count(*) filter (where state = 'scheduled') as scheduled,
                   count(*) filter (where state = 'running') as running,
                   count(*) filter (where state = 'retrying') as retrying, count(*) as n
            from hidden
        ), dead as (
            select count(*) as n from (select from pgmq.%2$I limit $2) d
        )
        select $1, v.ready, h.scheduled, h.running, h.retrying, v.lost,
               v.n >= $2 or h.n >= $2,
               coalesce(meshhook.age_seconds((select q.vt from pgmq.%1$I q
                   where q.vt > '-infinity' and q.vt <= now() order by q.vt limit 1)), 0),
               meshhook.age_seconds((select q.enqueued_at from pgmq.%1$I q
                   order by q.msg_id limit 1)),
               meshhook.age_seconds((select q.enqueued_at from pgmq.%1$I q
                   order by q.msg_id desc limit 1)),
               coalesce(pg_sequence_last_value(
                   pg_get_serial_sequence(%3$L, 'msg_id')::regclass), 0),
               d.n, d.n >= $2,
               meshhook.age_seconds((select q.enqueued_at from pgmq.%2$I q
                   order by q.msg_id limit 1)),
               coalesce((select c.paused from meshhook.queue_config c where c.queue_name = $1),
                   false),
               now()
        from visible_count v, hidden_count h, dead d
        $query$, queue_table, queue_table || '_dlq', format('pgmq.%I', queue_table))
        using queue_name, count_limit;
end
$$;

-- What the attempts of the last 24 hours came to, a queue and an hour.
create or replace view meshhook.job_statistics as
select
    a.queue,
    date_trunc('hour', a.finished_at, 'UTC') as hour,
    count(*) filter (where a.outcome <> 'replayed') as attempts,
    count(*) filter (where a.outcome = 'succeeded') as succeeded,
    count(*) filter (where a.outcome = 'retried') as retried,
    count(*) filter (where a.outcome = 'snoozed') as snoozed,
    count(*) filter (where a.outcome = 'dead_lettered') as dead_lettered,
    count(*) filter (where a.outcome = 'cancelled') as cancelled,
    count(*) filter (where a.outcome = 'archived') as archived,
    count(*) filter (where a.outcome = 'lost') as lost,
    count(*) filter (where a.outcome = 'replayed') as replayed,
    avg(r.run_seconds) as mean_run_seconds,
    percentile_cont(0.5) within group (order by r.run_seconds) as p50_run_seconds,
    percentile_cont(0.95) within group (order by r.run_seconds) as p95_run_seconds
from meshhook.job_attempts a
cross join lateral (
    select case when isfinite(a.started_at)
        then extract(epoch from a.finished_at - a.started_at) end as run_seconds
) r
where a.finished_at > now() - interval '24 hours' and a.finished_at < 'infinity'
group by a.queue, date_trunc('hour', a.finished_at, 'UTC');

-- The size of a queue's archive with its indexes, all partitions together; null if it has none, or
-- if somebody holds it locked.
-- Locks: none; waits at most 200 ms.
create function meshhook.archive_bytes(queue_name text) returns bigint
language plpgsql stable strict
set lock_timeout = '200ms' set search_path = pg_catalog, pg_temp as $$
declare
    archive_table regclass := to_regclass(format('pgmq.%I', 'a_' || queue_name));
begin
    return (select sum(pg_total_relation_size(t.oid))
            from (select archive_table as oid
                  union select relid from pg_partition_tree(archive_table)) t);
exception when lock_not_available then
    return null;
end
$$;

select meshhook.mend_tables();
