-- Priorities: each message of a queue whose setting `prioritized` is on belongs to one of four
-- bands, urgent, high, normal and low, and an index of the queue's table knows the bands. Turning
-- the setting on builds it, turning it off drops it. The band is a header, which every message may
-- have, whatever its queue.
-- Locks: ACCESS EXCLUSIVE on meshhook.queue_config for the new columns and the trigger, which
-- rewrites nothing. Time at size: milliseconds; no queue is touched.

set local search_path = pg_catalog, pg_temp;

alter table meshhook.queue_config
    add column prioritized boolean not null default false,
    add column priority_target_seconds double precision[] not null default '{5,15,60,600}' check (
        (array_ndims(priority_target_seconds) = 1 and array_lower(priority_target_seconds, 1) = 1
        and cardinality(priority_target_seconds) = 4
        and priority_target_seconds[1] >= 0.1
        and priority_target_seconds[1] <= priority_target_seconds[2]
        and priority_target_seconds[2] <= priority_target_seconds[3]
        and priority_target_seconds[3] <= priority_target_seconds[4]
        and priority_target_seconds[4] <= 604800) is true),
    add column urgent_slots integer not null default 1 check (urgent_slots between 0 and 10000),
    add constraint prioritized_without_keys check (not (prioritized and keyed));

comment on column meshhook.queue_config.prioritized is
    'Whether messages have priorities, in four bands. meshhook queue set builds the index that this '
    'needs.';
comment on column meshhook.queue_config.priority_target_seconds is
    'Within how many seconds jobs of each band are to start: urgent, high, normal, low.';
comment on column meshhook.queue_config.urgent_slots is
    'How many slots of each worker are kept free for urgent jobs, half of its slots at the most.';

-- The band of a message: 0 urgent, 1 high, 2 normal, 3 low. Normal where the header is missing, or
-- is nonsense of another client's. An index of each queue with priorities is made of it: changed, they
-- would have to be built anew.
create function meshhook.priority_of(headers jsonb) returns integer
language sql immutable parallel safe
return case headers -> 'meshhook-priority'
    when '0'::jsonb then 0 when '1'::jsonb then 1 when '3'::jsonb then 3
    when '"urgent"'::jsonb then 0 when '"high"'::jsonb then 1 when '"low"'::jsonb then 3
    else 2 end;

-- The statements that bring one index of a queue's table to what a setting is to be, in their order;
-- none if it is there, or gone. Run them one by one. Where the queue `is_in_use` they build beside
-- others, and take no transaction; else others wait, so that there only a small queue is accepted,
-- and `settings` say how to do it elsewhere. What an interrupted run left behind is dropped and built
-- anew. The purpose is the comment of the index: one with another comment is another index.
-- Locks: none.
create function meshhook.index_statements(
    queue text, index_name text, definition text, purpose text, is_needed boolean,
    is_in_use boolean, settings text)
returns setof text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    how text := case when is_in_use then ' concurrently' else '' end;
    found_index oid := to_regclass(format('pgmq.%I', index_name));
begin
    perform meshhook.check_queue_name(queue);
    if is_needed and exists (
        select from pg_index i where i.indexrelid = found_index and i.indisvalid
            and obj_description(i.indexrelid, 'pg_class') is not distinct from purpose)
    then
        return;
    end if;
    if is_needed and not is_in_use
        and pg_relation_size(to_regclass(format('pgmq.%I', 'q_' || queue))) > 8388608
    then
        raise exception using errcode = 'MHQ09', message = format(
            'queue "%s" is too large to build an index inside a transaction, in which nobody could '
            'write to it', queue),
            hint = format('Outside of one: meshhook queue set %s %s', queue, settings);
    end if;
    if found_index is not null then
        return next format('drop index%s pgmq.%I', how, index_name);
    end if;
    if is_needed then
        return next format('create index%s %I on pgmq.%I (%s)', how, index_name, 'q_' || queue,
            definition);
        return next format('comment on index pgmq.%I is %L', index_name, purpose);
    end if;
end
$$;

-- The statements that build or drop the index of a queue's priorities, as its setting is to be.
-- Locks: none.
create function meshhook.priority_index_statements(
    queue text, prioritized boolean, is_in_use boolean)
returns setof text
language sql stable set search_path = pg_catalog, pg_temp as $$
    select meshhook.index_statements(queue, 'q_' || queue || '_priority_idx',
        '(meshhook.priority_of(headers)), vt', 'The priorities of messages', prioritized, is_in_use,
        'prioritized=true')
$$;

-- Refuses a queue that is prioritized without the index: each claim would read the whole table.
create function meshhook.check_priorities() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if exists (select from meshhook.priority_index_statements(new.queue_name, true, true)) then
        raise exception using errcode = 'MHQ09', message = format(
            'queue "%s" has no index of priorities yet', new.queue_name),
            hint = format('Build it: meshhook queue set %s prioritized=true', new.queue_name);
    end if;
    return new;
end
$$;

create trigger check_priorities
    before insert or update of prioritized on meshhook.queue_config
    for each row when (new.prioritized) execute function meshhook.check_priorities();

-- Checks headers, and returns those to store: null for none. The error is MHQ07.
create or replace function meshhook.check_headers(headers jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    reserved text;
begin
    if jsonb_typeof(headers) not in ('object', 'null') then
        raise exception using errcode = 'MHQ07', message = format(
            'headers are a JSON object of names and values, got %s', left(headers::text, 100));
    end if;
    headers := case when headers in ('{}', 'null') then null else headers end;
    if headers is not null then
        select k into reserved from jsonb_object_keys(headers) as k
            where starts_with(k, 'meshhook-')
              and k not in ('meshhook-retry', 'meshhook-expires-at', 'meshhook-expires-in',
                'meshhook-priority')
            order by k limit 1;
        if found then
            raise exception using errcode = 'MHQ07', message = format(
                'header "%s": names that start with "meshhook-" are the queue''s own',
                left(reserved, 100));
        end if;
        if headers -> 'meshhook-priority' not in
            ('0', '1', '2', '3', '"urgent"', '"high"', '"normal"', '"low"')
        then
            raise exception using errcode = 'MHQ07', message = format(
                'header "meshhook-priority" is 0 to 3, or urgent, high, normal or low, got %s',
                left(headers ->> 'meshhook-priority', 100));
        end if;
        if meshhook.excess_bytes(headers, 65536) is not null then
            raise exception using errcode = 'MHQ07', message = format(
                'the headers are %s bytes of JSON, at most 65536 are allowed',
                meshhook.json_bytes(headers)),
                hint = 'Put data into the message.';
        end if;
        if headers ? 'meshhook-retry' then
            perform meshhook.check_retry_policy(headers -> 'meshhook-retry');
        end if;
        if headers ?| array['meshhook-expires-at', 'meshhook-expires-in'] then
            perform meshhook.check_deadline(headers);
        end if;
    end if;
    return headers;
end
$$;
