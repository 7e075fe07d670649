-- What is to follow a dead letter and is not encrypted, for a queue that requires that: refused when
-- its job is enqueued; if the queue requires it later, stored when the job dies, so as not to be
-- lost. Publishing refuses what a queue that is bound to the topic does not take.
-- A job's own follow-up that is nonsense leaves that of its queue.
-- Locks: none on tables. Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

-- Refuses headers with a job that is to follow a dead letter and is not encrypted, if its queue
-- requires that. The error is MHQ20.
create function meshhook.check_follow_up_encryption(headers jsonb) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    follow_up jsonb := headers -> 'meshhook-on-dead-letter';
begin
    if follow_up is not null and not meshhook.is_encrypted(follow_up -> 'message') and exists (
        select from meshhook.queue_config c
        where c.queue = follow_up ->> 'queue' and c.encryption = 'require')
    then
        raise exception using errcode = 'MHQ20', message = format(
            'header meshhook-on-dead-letter: queue "%s" takes encrypted jobs only, and SQL cannot '
            'encrypt', follow_up ->> 'queue'),
            hint = format('Enqueue with the library and its keys, or let the queue take others: '
                'meshhook queue set %s encryption=accept', follow_up ->> 'queue');
    end if;
end
$$;

-- Checks what is to be enqueued, and returns the headers to store: null for none. The errors are
-- invalid_name, and MHQ05 for a queue that does not exist, MHQ06 for a message that is too large,
-- MHQ07 for a message or headers that cannot be stored, MHQ08 for a delay out of its range, MHQ20
-- for a message that is not encrypted where the queue requires that, or without the key of its
-- queue, or for a follow-up of a dead letter that is not encrypted where its queue requires that.
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
    perform meshhook.check_follow_up_encryption(headers);
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
create or replace function meshhook.publish(
    topic text, message jsonb, headers jsonb default null, delay interval default null,
    key text default null,
    priority text default null)
returns table (queue text, msg_id bigint)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    bound text[];
    smallest record;
    refusing record;
begin
    headers := meshhook.headers_with_priority(headers, priority);
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
    perform meshhook.check_follow_up_encryption(headers);
    select c.queue into refusing from meshhook.queue_config c
        where c.queue = any (bound) and c.encryption = 'require'
          and not meshhook.is_encrypted(message)
        order by c.queue limit 1;
    if refusing.queue is not null then
        raise exception using errcode = 'MHQ20', message = format(
            'queue "%s", which is bound to the topic, takes encrypted jobs only, and SQL cannot '
            'encrypt', refusing.queue),
            hint = format('Publish with the library and its keys, or let the queue take others: '
                'meshhook queue set %s encryption=accept', refusing.queue);
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

-- Enqueues what follows dead letters, in the statement that made them. A job's own follow-up counts
-- before that of its queue. What follows knows how many dead letters lie before it in a row: after
-- five nothing follows any more, so that queues that follow each other come to an end.
-- What is no follow-up, as another client may have written it, counts as none.
-- A job's own follow-up that is not encrypted, although its queue requires that by now, is stored
-- all the same: a worker makes a dead letter of it, in which nothing is lost.
-- A follow-up that is refused, such as for a queue that was dropped, keeps no dead letter from being
-- made: a warning is written to the log of the server. What may pass, such as a deadlock, fails the
-- settlement, which is tried again.
-- Locks: the new rows. Index: queue_config_queue_key.
create or replace function meshhook.follow_dead_letters(
    queue text, ids bigint[], headers jsonb[], run_ids text[], workflow_ids text[],
    project_ids text[])
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    queue_follow_up text := (
        select c.dead_letter_follow_up from meshhook.queue_config c
        where c.queue = follow_dead_letters.queue);
    dead record;
    own jsonb;
    died jsonb;
    details jsonb;
    job_ids jsonb;
    message jsonb;
    job_headers jsonb;
    depth integer;
    unencrypted_bytes integer;
begin
    for dead in
        select d.id, d.headers, d.run_id, d.workflow_id, d.project_id
        from unnest(ids, headers, run_ids, workflow_ids, project_ids)
            as d (id, headers, run_id, workflow_id, project_id)
        where queue_follow_up is not null or d.headers ? 'meshhook-on-dead-letter'
        order by d.id
    loop
        own := dead.headers -> 'meshhook-on-dead-letter';
        if own is not null then
            begin
                perform meshhook.check_follow_up(own);
            exception when sqlstate 'MHQ07' then
                raise warning 'dead letter % of queue "%" has a follow-up of its own that makes no '
                    'sense and is passed over: %', dead.id, follow_dead_letters.queue, sqlerrm;
                own := null;
                continue when queue_follow_up is null;
            end;
        end if;
        died := dead.headers -> 'meshhook-dead-letter';
        depth := case when dead.headers #>> '{meshhook-failed-job,depth}' ~ '^[0-9]{1,3}$'
            then (dead.headers #>> '{meshhook-failed-job,depth}')::integer else 0 end + 1;
        if depth > 5 then
            raise warning 'dead letter % of queue "%" is the sixth in a row of jobs that follow '
                'dead letters: nothing follows it', dead.id, follow_dead_letters.queue;
            continue;
        end if;
        details := jsonb_build_object(
            'queue', follow_dead_letters.queue, 'msg_id', died -> 'msg_id',
            'dead_letter_id', dead.id, 'error_type', coalesce(died ->> 'error_type', ''),
            'error_message', coalesce(died ->> 'error_message', ''),
            'attempts', died -> 'attempts');
        job_ids := jsonb_strip_nulls(jsonb_build_object('run_id', dead.run_id,
            'workflow_id', dead.workflow_id, 'project_id', dead.project_id));
        begin
            if own is not null then
                message := own -> 'message';
                if meshhook.is_encrypted(message) then
                    -- What it says is authenticated: its producer gave it the job's identifiers.
                    null;
                elsif jsonb_typeof(message) = 'object' and message ? 'payload'
                    and message - array['payload', 'run_id', 'workflow_id', 'project_id'] = '{}'
                then
                    message := job_ids || message;
                elsif job_ids <> '{}' then
                    message := job_ids || jsonb_build_object('payload', message);
                end if;
            else
                message := job_ids || jsonb_build_object('payload', details);
            end if;
            job_headers := coalesce(nullif(own -> 'headers', 'null'), '{}') || jsonb_build_object(
                'meshhook-failed-job', details || jsonb_build_object('depth', depth));
            unencrypted_bytes := (
                select c.max_payload_bytes from meshhook.queue_config c
                where c.queue = own ->> 'queue' and c.encryption = 'require'
                  and not meshhook.is_encrypted(message));
            if unencrypted_bytes is null then
                perform meshhook.enqueue_follow_ups(
                    array[coalesce(own ->> 'queue', queue_follow_up)], array[message::text],
                    array[job_headers::text], array[own ->> 'key'],
                    array[coalesce((own ->> 'delay_seconds')::double precision, 0)]);
            elsif meshhook.excess_bytes(message, unencrypted_bytes) is not null then
                raise exception using errcode = 'MHQ06', message = format(
                    'the job is %s bytes of JSON; queue "%s" takes at most %s',
                    meshhook.json_bytes(message), own ->> 'queue', unencrypted_bytes);
            else
                execute format(
                    'insert into pgmq.%I (vt, message, headers)
                    select clock_timestamp() + make_interval(secs => $1), $2,
                        meshhook.headers_with_key($3, $4, $5)', 'q_' || (own ->> 'queue'))
                    using coalesce((own ->> 'delay_seconds')::double precision, 0), message,
                        own ->> 'queue', job_headers, own ->> 'key';
            end if;
        exception when others then
            if sqlstate ~ '^(08|25|40|53|55|57|58|XX)' then
                raise;
            end if;
            raise warning 'nothing follows dead letter % of queue "%": %', dead.id,
                follow_dead_letters.queue, sqlerrm;
        end;
    end loop;
end
$$;
