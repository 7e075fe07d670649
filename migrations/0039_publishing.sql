-- Publishing: one message for each queue that is bound to its topic, checked as enqueuing checks.
-- Locks: none that others hold. Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

-- Checks headers, and returns those to store: null for none. The error is MHQ07.
create function meshhook.check_headers(headers jsonb) returns jsonb
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
            where starts_with(k, 'meshhook-') order by k limit 1;
        if found then
            raise exception using errcode = 'MHQ07', message = format(
                'header "%s": names that start with "meshhook-" are the queue''s own',
                left(reserved, 100));
        end if;
        if meshhook.excess_bytes(headers, 65536) is not null then
            raise exception using errcode = 'MHQ07', message = format(
                'the headers are %s bytes of JSON, at most 65536 are allowed',
                meshhook.json_bytes(headers)),
                hint = 'Put data into the message.';
        end if;
    end if;
    return headers;
end
$$;

-- Checks what is to be enqueued, and returns the headers to store: null for none. The errors are
-- invalid_name, and MHQ05 for a queue that does not exist, MHQ06 for a message that is too large,
-- MHQ07 for a message or headers that cannot be stored, MHQ08 for a delay out of its range.
create or replace function meshhook.check_jobs(
    queue text, messages jsonb[], headers jsonb, delay interval)
returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    max_bytes integer;
    place text;
    fault record;
begin
    perform meshhook.check_queue_name(queue);
    if messages is null then
        raise exception using errcode = 'MHQ07', message = 'messages is null',
            hint = 'Pass an array of jsonb; an empty one enqueues nothing.';
    end if;
    if coalesce(extract(epoch from delay), 0) not between 0 and 31622400 then
        raise exception using errcode = 'MHQ08',
            message = format('a delay is 0 to 366 days, got %s', delay);
    end if;
    if headers is not null then
        headers := meshhook.check_headers(headers);
    end if;
    select c.max_payload_bytes into max_bytes
        from meshhook.queue_config c where c.queue = check_jobs.queue;
    if not found or to_regclass(format('pgmq.%I', 'q_' || queue)) is null then
        raise exception using errcode = 'MHQ05',
            message = format('queue "%s" does not exist in this database', queue),
            hint = format('Create it, or adopt an existing PGMQ queue: meshhook queue create %s. '
                'A role that is for some queues only sees no others.', queue);
    end if;
    select item.message, item.position - 1 as position,
            meshhook.excess_bytes(item.message, max_bytes) as size_bytes into fault
        from unnest(messages) with ordinality as item (message, position)
        where item.message is null or meshhook.excess_bytes(item.message, max_bytes) is not null
        order by item.position limit 1;
    if found then
        place := case when cardinality(messages) > 1 then format(
            'Job %s of the batch, counted from 0.', fault.position) end;
        if fault.message is null then
            raise exception using errcode = 'MHQ07', message = 'the message is null',
                detail = coalesce(place, ''), hint = 'The null of JSON is ''null''::jsonb.';
        end if;
        raise exception using errcode = 'MHQ06', message = format(
            'the job is %s bytes of JSON; this queue takes at most %s',
            fault.size_bytes, max_bytes),
            detail = coalesce(place, ''),
            hint = format('Store the data elsewhere and enqueue a reference, or raise it: '
                'meshhook queue set %s max_payload_bytes=N', queue);
    end if;
    return headers;
end
$$;

-- Stores a message in each queue that is bound to a pattern that matches the topic, in the
-- transaction of the caller, all or none, and returns the queues with the ids. No row: no queue is
-- bound, and the message is stored nowhere. A queue that only PGMQ knows gets it as well.
-- The key is the header x-pgmq-group: a queue that takes its keys from the body does not look at it.
-- The errors are MHQ06 for a message that is too large for one of the queues, MHQ07 for a message,
-- headers or a key that cannot be stored, MHQ08 for a topic that is none and a delay out of its
-- range, and MHQ12 where PGMQ has no topics.
-- Locks: the new rows. Index: none; PGMQ reads all bindings at each send as well.
create function meshhook.publish(
    topic text, message jsonb, headers jsonb default null, delay interval default null,
    key text default null)
returns table (queue text, msg_id bigint)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    bound text[];
    smallest record;
begin
    if to_regclass('pgmq.topic_bindings') is null then
        raise exception using errcode = 'MHQ12',
            message = 'topics need PGMQ 1.11.0 or newer, and this database has an older one',
            hint = 'Upgrade PGMQ, or enqueue into each queue by its name.';
    end if;
    if topic is null or length(topic) not between 1 and 255
        or topic !~ '^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$'
    then
        raise exception using errcode = 'MHQ08', message = format(
            'a topic is 1 to 255 characters: names of a-z, A-Z, 0-9, _ and - with single dots '
            'between them, got %s', coalesce('"' || left(topic, 100) || '"', 'null'));
    end if;
    if message is null then
        raise exception using errcode = 'MHQ07', message = 'the message is null',
            hint = 'The null of JSON is ''null''::jsonb.';
    end if;
    if coalesce(extract(epoch from delay), 0) not between 0 and 31622400 then
        raise exception using errcode = 'MHQ08',
            message = format('a delay is 0 to 366 days, got %s', delay);
    end if;
    headers := meshhook.check_headers(headers);
    if key is not null then
        if length(key) not between 1 and 200 then
            raise exception using errcode = 'MHQ07', message = format(
                'key is text of 1 to 200 characters, got %s', length(key));
        end if;
        if headers ? 'x-pgmq-group' then
            raise exception using errcode = 'MHQ07',
                message = 'key was given beside the header x-pgmq-group, which is the key',
                hint = 'Leave one of them out.';
        end if;
        headers := coalesce(headers, '{}') || jsonb_build_object('x-pgmq-group', key);
    end if;
    -- In one order, so that two that publish do not wait for each other in turns.
    execute 'select array_agg(distinct b.queue_name order by b.queue_name) '
        'from pgmq.topic_bindings b where $1 ~ b.compiled_regex' into bound using topic;
    select c.queue, c.max_payload_bytes,
            meshhook.excess_bytes(message, c.max_payload_bytes) as size_bytes into smallest
        from meshhook.queue_config c
        where c.queue = any (bound)
        order by c.max_payload_bytes, c.queue limit 1;
    if smallest.size_bytes is not null then
        raise exception using errcode = 'MHQ06', message = format(
            'the job is %s bytes of JSON; queue "%s", which is bound to the topic, takes at most %s',
            smallest.size_bytes, smallest.queue, smallest.max_payload_bytes),
            hint = format('Store the data elsewhere and publish a reference, or raise it: '
                'meshhook queue set %s max_payload_bytes=N', smallest.queue);
    end if;
    foreach queue in array coalesce(bound, '{}') loop
        execute format(
            'insert into pgmq.%I (vt, message, headers)
            values (clock_timestamp() + make_interval(secs => $1), $2, $3)
            returning msg_id', 'q_' || lower(queue))
            into msg_id
            using coalesce(extract(epoch from delay), 0)::double precision, message, headers;
        return next;
    end loop;
end
$$;

comment on function meshhook.publish(text, jsonb, jsonb, interval, text) is
    'Stores a message in each queue that is bound to the topic, in the transaction of the caller, '
    'and returns the queues with the msg_ids. Arguments may be added: pass all but the first two by '
    'name.';
