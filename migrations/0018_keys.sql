-- Keys: the messages of a queue whose setting `keyed` is on each have a key, such as a tenant or a
-- destination, and workers serve the keys in fair shares. Two indexes of the queue's table know the
-- keys; turning the setting on builds them, turning it off drops them.
-- Locks: ACCESS EXCLUSIVE on meshhook.queue_config for the new columns, which rewrites nothing.
-- Time at size: milliseconds; no queue is touched.

set local search_path = pg_catalog, pg_temp;

alter table meshhook.queue_config
    add column keyed boolean not null default false,
    add column key_path text check (
        key_path ~ '^[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63}){0,7}$');

comment on column meshhook.queue_config.keyed is
    'Whether messages have keys, which are served in fair shares. meshhook queue set builds the '
    'indexes that this needs.';
comment on column meshhook.queue_config.key_path is
    'Where in the body the key of a message is, such as payload.customer; null means the header '
    'x-pgmq-group.';

-- The key of a message from the text that holds it: the first 200 characters, and the empty one where
-- there is none. Two indexes of each keyed queue are made of it and of the next: changed, they would
-- have to be built anew.
create function meshhook.key_text(value text) returns text
language sql immutable parallel safe
return coalesce(left(value, 200), '');

-- Whether a message was read since its last recorded outcome: it runs, or its attempt was lost. As
-- with meshhook.settled_attempts; but an index may ask no size, so that large headers are unpacked.
create function meshhook.has_open_attempt(read_ct integer, headers jsonb) returns boolean
language sql immutable parallel safe
return read_ct > case when jsonb_typeof(headers -> 'meshhook-settled') = 'number'
    then least(greatest((headers -> 'meshhook-settled')::numeric, 0), 1000000000)::integer
    else 0 end;

-- The statements that bring the indexes of a queue's keys to what its settings are to be, in their
-- order; none if they are there, or gone. Run them one by one. Where the queue `is_in_use` they build
-- beside others, and take no transaction; else others wait. What an interrupted run left behind is dropped and built anew.
-- Locks: none.
create function meshhook.key_index_statements(
    queue text, keyed boolean, key_path text, is_in_use boolean)
returns setof text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    how text := case when is_in_use then ' concurrently' else '' end;
    key text := case when key_path is null then
            'meshhook.key_text(headers operator(pg_catalog.->>) ''x-pgmq-group''::pg_catalog.text)'
        else format('meshhook.key_text(message operator(pg_catalog.#>>) %L::pg_catalog.text[])',
            string_to_array(key_path, '.')) end;
    purpose text := 'The keys of messages: '
        || coalesce('the path ' || key_path, 'the header x-pgmq-group');
    part record;
begin
    perform meshhook.check_queue_name(queue);
    if not is_in_use and pg_relation_size(to_regclass(format('pgmq.%I', 'q_' || queue)))
        > 8388608
    then
        raise exception using errcode = 'MHQ09', message = format(
            'queue "%s" is too large to build its indexes for keys inside a transaction, in which '
            'nobody could write to it', queue),
            hint = format('Outside of one: meshhook queue set %s keyed=true', queue);
    end if;
    for part in
        select i.name, i.definition, c.oid is not null as exists,
            c.oid is not null and x.indisvalid
                and obj_description(c.oid, 'pg_class') is not distinct from purpose as is_usable
        from (values
            ('q_' || queue || '_key_idx', format('((%s) collate pg_catalog."C"), vt', key)),
            ('q_' || queue || '_running_idx', format(
                '((case when meshhook.has_open_attempt(read_ct, headers) then %1$s end) '
                'collate pg_catalog."C"), vt) where (case when meshhook.has_open_attempt(read_ct, headers) '
                'then %1$s end) is not null', key))
        ) as i (name, definition)
        left join pg_class c on c.oid = to_regclass(format('pgmq.%I', i.name))
        left join pg_index x on x.indexrelid = c.oid
    loop
        continue when keyed and part.is_usable;
        if part.exists then
            return next format('drop index%s pgmq.%I', how, part.name);
        end if;
        if keyed then
            return next format('create index%s %I on pgmq.%I (%s%s', how, part.name,
                'q_' || queue, part.definition,
                case when part.definition like '% where %' then '' else ')' end);
            return next format('comment on index pgmq.%I is %L', part.name, purpose);
        end if;
    end loop;
end
$$;

-- Refuses a queue that is keyed without the indexes: each claim would read the whole table.
create function meshhook.check_keys() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if new.keyed and exists (
        select from meshhook.key_index_statements(new.queue_name, true, new.key_path, true))
    then
        raise exception using errcode = 'MHQ09', message = format(
            'queue "%s" has no indexes for keys of %s yet', new.queue_name,
            coalesce('the path ' || new.key_path, 'the header x-pgmq-group')),
            hint = format('Build them: meshhook queue set %s keyed=true', new.queue_name)
                || coalesce(' key_path=' || new.key_path, '');
    end if;
    return new;
end
$$;

create trigger check_keys
    before insert or update of keyed, key_path on meshhook.queue_config
    for each row when (new.keyed) execute function meshhook.check_keys();

-- A queue that was adopted, or made here, may have messages with PGMQ's groups: they are its keys.
-- Only one that comes from elsewhere is looked at for them.
alter function meshhook.check_adoptable(text, boolean) rename to check_adoptable_tables;

create function meshhook.check_adoptable(queue_name text, ignore_fifo_groups boolean) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    perform meshhook.check_adoptable_tables(queue_name, ignore_fifo_groups or exists (
        select from meshhook.queue_config c where c.queue_name = check_adoptable.queue_name));
end
$$;

-- * Enqueuing from SQL

-- Returns the headers of a job, which check_jobs has found good, with its key among them; null for
-- none. A wrong key is refused with MHQ07.
create function meshhook.headers_with_key(queue text, headers jsonb, key text) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    body_path text;
begin
    if key is null then
        return headers;
    end if;
    if length(key) not between 1 and 200 then
        raise exception using errcode = 'MHQ07', message = format(
            'key is text of 1 to 200 characters, got %s', length(key));
    end if;
    select c.key_path into body_path
        from meshhook.queue_config c where c.queue = headers_with_key.queue and c.keyed;
    if body_path is not null then
        raise exception using errcode = 'MHQ07', message = format(
            'queue "%s" takes the key from the body, at %s', queue, body_path),
            hint = 'Leave the key out.';
    end if;
    if headers ? 'x-pgmq-group' then
        raise exception using errcode = 'MHQ07',
            message = 'key was given beside the header x-pgmq-group, which is the key',
            hint = 'Leave one of them out.';
    end if;
    return coalesce(headers, '{}') || jsonb_build_object('x-pgmq-group', key);
end
$$;

drop function meshhook.enqueue(text, jsonb, jsonb, interval);
drop function meshhook.enqueue_many(text, jsonb[], jsonb, interval);

-- Stores jobs in the transaction of the caller, all or none, and returns their ids in order. The
-- headers, the delay and the key are those of each job.
create function meshhook.enqueue_many(
    queue text, messages jsonb[], headers jsonb default null, delay interval default null,
    key text default null)
returns setof bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    headers := meshhook.check_jobs(queue, messages, headers, delay);
    headers := meshhook.headers_with_key(queue, headers, key);
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
    queue text, message jsonb, headers jsonb default null, delay interval default null,
    key text default null)
returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    return (select id from meshhook.enqueue_many(queue, array[message], headers, delay, key) as id);
end
$$;

comment on function meshhook.enqueue(text, jsonb, jsonb, interval, text) is
    'Stores a job in the transaction of the caller, and returns its msg_id. Arguments may be added: '
    'pass all but the first two by name.';
comment on function meshhook.enqueue_many(text, jsonb[], jsonb, interval, text) is
    'Stores jobs in the transaction of the caller, and returns their msg_ids in order. Arguments may '
    'be added: pass all but the first two by name.';
