-- Enqueuing from SQL: meshhook.enqueue and meshhook.enqueue_many store jobs in the transaction of
-- their caller, and refuse what the library refuses. They run with the rights of their caller, who
-- needs those of a producer. pgmq.send works as before, without the checks.
-- Locks: none that others hold. Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

-- How many bytes of UTF-8 a document has as JSON text without spaces between its parts, as the
-- library counts it. PostgreSQL's own text has a space after each comma and each colon.
create function meshhook.json_bytes(document jsonb) returns bigint
language sql stable parallel safe
return (
    select case when getdatabaseencoding() in ('UTF8'::name, 'SQL_ASCII'::name)
            then octet_length(spaced.body)
            else octet_length(convert_to(spaced.body, 'UTF8'::name)) end::bigint
        - length(bare.body) + length(replace(bare.body, ' ', ''))
    from (select document::text) as spaced (body),
        lateral (select regexp_replace(spaced.body, '"([^"\\]|\\.)*"', '', 'g')) as bare (body));

-- The size of a document in bytes as `json_bytes` says, if that is more than `max_bytes`; else null.
-- Reads the text of a document once, unless it is near the limit or above.
create function meshhook.excess_bytes(document jsonb, max_bytes integer) returns bigint
language sql stable parallel safe
return case when octet_length(document::text)
            * case getdatabaseencoding() when 'UTF8'::name then 1::bigint else 4 end > max_bytes
        and meshhook.json_bytes(document) > max_bytes
    then meshhook.json_bytes(document) end;

-- Checks what is to be enqueued, and returns the headers to store: null for none. The errors are
-- invalid_name, and MHQ05 for a queue that does not exist, MHQ06 for a message that is too large,
-- MHQ07 for a message or headers that cannot be stored, MHQ08 for a delay out of its range.
create function meshhook.check_jobs(queue text, messages jsonb[], headers jsonb, delay interval)
returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    max_bytes integer;
    place text;
    fault record;
    reserved text;
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

-- Stores jobs in the transaction of the caller, all or none, and returns their ids in order. The
-- headers and the delay are those of each job.
create function meshhook.enqueue_many(
    queue text, messages jsonb[], headers jsonb default null, delay interval default null)
returns setof bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    headers := meshhook.check_jobs(queue, messages, headers, delay);
    return query execute format(
        'insert into pgmq.%I (vt, message, headers)
        select clock_timestamp() + make_interval(secs => $3), item.message, $2
        from unnest($1) with ordinality as item (message, position)
        order by item.position
        returning msg_id', 'q_' || queue)
        using messages, headers, coalesce(extract(epoch from delay), 0)::double precision;
end
$$;

-- Stores a job in the transaction of the caller, and returns its id.
create function meshhook.enqueue(
    queue text, message jsonb, headers jsonb default null, delay interval default null)
returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    return (select id from meshhook.enqueue_many(queue, array[message], headers, delay) as id);
end
$$;

comment on function meshhook.enqueue(text, jsonb, jsonb, interval) is
    'Stores a job in the transaction of the caller, and returns its msg_id. Arguments may be added: '
    'pass all but the first two by name.';
comment on function meshhook.enqueue_many(text, jsonb[], jsonb, interval) is
    'Stores jobs in the transaction of the caller, and returns their msg_ids in order. Arguments may '
    'be added: pass all but the first two by name.';
