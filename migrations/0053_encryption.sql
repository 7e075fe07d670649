-- Encryption of payloads: whether a queue takes messages that are not encrypted. Whoever enqueues
-- through the database's functions cannot encrypt, and is refused where encryption is required.
-- Locks: ACCESS EXCLUSIVE on meshhook.queue_config for a new column, which rewrites nothing.
-- Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

alter table meshhook.queue_config add column encryption text not null default 'accept'
    constraint queue_config_encryption_check check (encryption in ('accept', 'require'));
comment on column meshhook.queue_config.encryption is
    'Whether messages that are not encrypted are taken (accept), or refused (require).';

-- Whether a message is encrypted: an object with the field that an encrypted one has.
create function meshhook.is_encrypted(message jsonb) returns boolean
language sql immutable parallel safe
return coalesce(jsonb_typeof(message -> 'enc') = 'object'
    and (message -> 'enc') ?& array['v', 'key', 'nonce', 'data'], false);

-- Checks what is to be enqueued, and returns the headers to store: null for none. The errors are
-- invalid_name, and MHQ05 for a queue that does not exist, MHQ06 for a message that is too large,
-- MHQ07 for a message or headers that cannot be stored, MHQ08 for a delay out of its range, MHQ20 for a
-- message that is not encrypted where the queue requires that, or without the key of its queue.
create or replace function meshhook.check_jobs(
    queue text, messages jsonb[], headers jsonb, delay interval)
returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    max_bytes integer;
    needs_encryption boolean;
    key_path text;
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
    select c.max_payload_bytes, c.encryption = 'require', case when c.keyed then c.key_path end
        into max_bytes, needs_encryption, key_path
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
    if needs_encryption and exists (
        select from unnest(messages) as m where not meshhook.is_encrypted(m))
    then
        raise exception using errcode = 'MHQ20', message = format(
            'queue "%s" takes encrypted jobs only, and SQL cannot encrypt', queue),
            hint = format('Enqueue with the library and its keys, or let the queue take others: '
                'meshhook queue set %s encryption=accept', queue);
    end if;
    if key_path is not null and exists (
        select from unnest(messages) as m
        where meshhook.is_encrypted(m) and m #> string_to_array(key_path, '.') is null)
    then
        raise exception using errcode = 'MHQ20', message = format(
            'the encrypted job has no readable key at %s, where queue "%s" takes it from',
            key_path, queue),
            hint = 'Jobs that follow others, and published ones, have no such key; use a queue '
                'that takes its keys from the header.';
    end if;
    return headers;
end
$$;
