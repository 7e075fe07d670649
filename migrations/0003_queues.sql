-- Queues: creating and dropping them beside stock PGMQ, reading the state of a message, and the
-- wake-up of waiting workers. Locks: none that others hold. Time at size: milliseconds.

-- The number of attempts with a recorded outcome, from the headers of a message: 0 if there is no
-- such header, or if some other client wrote nonsense under its name.
create function meshhook.settled_attempts(headers jsonb) returns integer
language sql immutable parallel safe as $$
    select case when jsonb_typeof(headers -> 'meshhook-settled') = 'number'
        then least(greatest((headers ->> 'meshhook-settled')::numeric, 0), 1000000000)::integer
        else 0 end
$$;

-- Headers as an object: what another client sent as anything else is kept under one key.
create function meshhook.headers_object(headers jsonb) returns jsonb
language sql immutable parallel safe as $$
    select case
        when headers is null or jsonb_typeof(headers) = 'null' then '{}'::jsonb
        when jsonb_typeof(headers) = 'object' then headers
        else jsonb_build_object('meshhook-foreign-headers', headers) end
$$;

-- The state of a message, from its stock columns alone.
create function meshhook.message_state(vt timestamptz, read_ct integer, headers jsonb) returns text
language sql stable parallel safe as $$
    select case
        when vt <= now() then
            case when read_ct > 0 and read_ct > meshhook.settled_attempts(headers)
                then 'lost' else 'ready' end
        when read_ct = 0 then 'scheduled'
        when read_ct > meshhook.settled_attempts(headers) then 'running'
        else 'retrying' end
$$;

-- An identifier out of a message, as text that an index can hold; null if there is none.
create function meshhook.message_id_text(message jsonb, key text) returns text
language sql immutable parallel safe as $$
    select case when jsonb_typeof(message -> key) in ('string', 'number')
        then left(message ->> key, 200) end
$$;

-- Wakes waiting workers after an insert, and costs producers nothing while none waits. The
-- sequence is a word of shared state that no snapshot hides and no vacuum has to follow: until
-- when, in milliseconds since 1970, somebody waits. Runs with its owner's rights, so that a
-- producer needs none on it; a missing sequence means that nobody waits.
create function meshhook.wake_waiting_workers() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if pg_sequence_last_value(to_regclass(tg_argv[0]))
        > extract(epoch from clock_timestamp()) * 1000
    then
        perform pg_notify(tg_argv[1], '');
    end if;
    return null;
end
$$;

create function meshhook.check_queue_name(queue_name text) returns void
language plpgsql immutable as $$
begin
    if queue_name is null or queue_name !~ '^[a-z0-9][a-z0-9_-]{0,42}$' or queue_name ~ '_dlq$' then
        raise exception 'queue name %: 1 to 43 characters of a-z, 0-9, _ and -, starting with a '
            'letter or a digit and not ending in _dlq', quote_nullable(queue_name)
            using errcode = 'invalid_name';
    end if;
end
$$;

-- Creates a queue with its dead letter queue, its settings and its wake-up, or adopts an existing
-- PGMQ queue of that name. Safe to repeat and to race. Returns whether anything was new.
-- Locks: SHARE ROW EXCLUSIVE on the queue's table when the trigger is added to a queue in use.
create function meshhook.create_queue(queue_name text) returns boolean
language plpgsql as $$
declare
    queue_table text := 'q_' || queue_name;
    waiting text := 'waiting_' || queue_name;
    is_new boolean;
begin
    perform meshhook.check_queue_name(queue_name);
    perform pg_advisory_xact_lock(hashtext('meshhook.queue.' || queue_name));
    -- Reads the catalog afresh: what another made while this waited is not in the cache yet.
    perform from pg_catalog.pg_class limit 0;
    is_new := to_regclass(format('pgmq.%I', queue_table)) is null;
    if is_new then
        perform pgmq.create(queue_name);
        -- A queue's rows are short-lived: clean up by count, not by share of the table.
        execute format('alter table pgmq.%I set (autovacuum_vacuum_scale_factor = 0.01,
            autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0,
            autovacuum_analyze_scale_factor = 0.05)', queue_table);
    end if;
    if to_regclass(format('pgmq.%I', queue_table || '_dlq')) is null then
        perform pgmq.create(queue_name || '_dlq');
        is_new := true;
    end if;
    -- For looking dead letters up by their error, and by the job that they were.
    execute format($index$create index if not exists %I on pgmq.%I
        (left(headers #>> '{meshhook-dead-letter,error_type}', 200), msg_id)$index$,
        queue_table || '_dlq_error_idx', queue_table || '_dlq');
    execute format($index$create index if not exists %I on pgmq.%I
        (left(headers #>> '{meshhook-dead-letter,msg_id}', 20), msg_id)$index$,
        queue_table || '_dlq_origin_idx', queue_table || '_dlq');
    if to_regclass(format('meshhook.%I', waiting)) is null then
        execute format('create %s sequence meshhook.%I',
            case when current_setting('server_version_num')::integer >= 150000
                then 'unlogged' else '' end, waiting);
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

-- Drops a queue with all its messages, dead letters and settings; its history stays until its
-- retention ends. Returns whether there was one.
-- Locks: ACCESS EXCLUSIVE on the tables dropped.
create function meshhook.drop_queue(queue_name text) returns boolean
language plpgsql as $$
declare
    existed boolean := false;
    name text;
begin
    perform meshhook.check_queue_name(queue_name);
    perform pg_advisory_xact_lock(hashtext('meshhook.queue.' || queue_name));
    -- Reads the catalog afresh: what another made while this waited is not in the cache yet.
    perform from pg_catalog.pg_class limit 0;
    foreach name in array array[queue_name, queue_name || '_dlq'] loop
        if to_regclass(format('pgmq.%I', 'q_' || name)) is not null then
            perform pgmq.drop_queue(name);
            existed := true;
        end if;
    end loop;
    execute format('drop sequence if exists meshhook.%I', 'waiting_' || queue_name);
    delete from meshhook.queue_config c where c.queue_name = drop_queue.queue_name;
    return existed or found;
end
$$;
