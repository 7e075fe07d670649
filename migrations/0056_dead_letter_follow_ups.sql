-- A job that becomes a dead letter is followed by another: in the queue that its own queue names, or
-- as its header `meshhook-on-dead-letter` says. In the statement that makes the dead letter.
-- Locks: ACCESS EXCLUSIVE on meshhook.queue_config for the new column, which rewrites nothing.
-- Time at size: milliseconds; no queue is touched.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

alter table meshhook.queue_config
    add column dead_letter_follow_up text check (
        dead_letter_follow_up ~ '^[a-z0-9][a-z0-9_-]{0,42}$' and dead_letter_follow_up !~ '_dlq$'),
    add constraint dead_letters_are_followed_elsewhere
        check (dead_letter_follow_up <> queue_name);

comment on column meshhook.queue_config.dead_letter_follow_up is
    'The queue in which a job is enqueued for each job that becomes a dead letter; null: none.';

-- Checks what is to follow the dead letter of a job: the header `meshhook-on-dead-letter`. The error
-- is MHQ07.
create function meshhook.check_follow_up(follow_up jsonb) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    problem text;
begin
    if jsonb_typeof(follow_up) <> 'object' then
        problem := 'it is an object';
    else
        problem := case
            when not follow_up ?& array['queue', 'message'] then 'it has a queue and a message'
            when follow_up - array['queue', 'message', 'headers', 'key', 'delay_seconds'] <> '{}'
                then 'it has a queue, a message, and perhaps headers, key and delay_seconds'
            when jsonb_typeof(follow_up -> 'queue') <> 'string'
                or follow_up ->> 'queue' !~ '^[a-z0-9][a-z0-9_-]{0,42}$'
                or follow_up ->> 'queue' ~ '_dlq$' then 'queue is the name of a queue'
            when jsonb_typeof(follow_up -> 'headers') not in ('object', 'null')
                then 'headers are an object'
            when exists (
                select from jsonb_object_keys(case when jsonb_typeof(follow_up -> 'headers')
                    = 'object' then follow_up -> 'headers' else '{}' end) as k
                where starts_with(k, 'meshhook-') and k not in ('meshhook-retry',
                    'meshhook-expires-at', 'meshhook-expires-in', 'meshhook-priority'))
                then 'headers whose names start with "meshhook-" are the queue''s own'
            when jsonb_typeof(follow_up -> 'key') not in ('string', 'null')
                or length(follow_up ->> 'key') not between 1 and 200
                then 'key is text of 1 to 200 characters'
            when jsonb_typeof(follow_up -> 'delay_seconds') not in ('number', 'null')
                then 'delay_seconds is a number'
            when case when jsonb_typeof(follow_up -> 'delay_seconds') = 'number'
                then (follow_up -> 'delay_seconds')::numeric not between 0 and 31622400 end
                then 'delay_seconds is 0 to 31622400' end;
    end if;
    if problem is not null then
        raise exception using errcode = 'MHQ07', message = format(
            'header meshhook-on-dead-letter: %s, got %s', problem, left(follow_up::text, 100));
    end if;
end
$$;

-- Enqueues what follows dead letters, in the statement that made them. A job's own follow-up counts
-- before that of its queue. What follows knows how many dead letters lie before it in a row: after
-- five nothing follows any more, so that queues that follow each other come to an end.
-- A follow-up that is refused, such as for a queue that was dropped, keeps no dead letter from being
-- made: a warning is written to the log of the server. What may pass, such as a deadlock, fails the
-- settlement, which is tried again.
-- Locks: the new rows. Index: queue_config_queue_key.
create function meshhook.follow_dead_letters(
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
    depth integer;
begin
    for dead in
        select d.id, d.headers, d.run_id, d.workflow_id, d.project_id
        from unnest(ids, headers, run_ids, workflow_ids, project_ids)
            as d (id, headers, run_id, workflow_id, project_id)
        where queue_follow_up is not null or d.headers ? 'meshhook-on-dead-letter'
        order by d.id
    loop
        own := dead.headers -> 'meshhook-on-dead-letter';
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
                perform meshhook.check_follow_up(own);
                message := own -> 'message';
                if jsonb_typeof(message) = 'object' and message ? 'payload'
                    and message - array['payload', 'run_id', 'workflow_id', 'project_id'] = '{}'
                then
                    message := job_ids || message;
                elsif job_ids <> '{}' then
                    message := job_ids || jsonb_build_object('payload', message);
                end if;
            else
                message := job_ids || jsonb_build_object('payload', details);
            end if;
            perform meshhook.enqueue_follow_ups(
                array[coalesce(own ->> 'queue', queue_follow_up)], array[message::text],
                array[(coalesce(nullif(own -> 'headers', 'null'), '{}') || jsonb_build_object(
                    'meshhook-failed-job', details || jsonb_build_object('depth', depth)))::text],
                array[own ->> 'key'],
                array[coalesce((own ->> 'delay_seconds')::double precision, 0)]);
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

-- Checks headers, and returns those to store: null for none. The error is MHQ07. Of the names that
-- are the queue's own, only policies of a job may be given.
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
                'meshhook-priority', 'meshhook-on-dead-letter')
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
        if headers ? 'meshhook-on-dead-letter' then
            perform meshhook.check_follow_up(headers -> 'meshhook-on-dead-letter');
        end if;
    end if;
    return headers;
end
$$;

-- * Roles made before
-- Whoever sets limits sets what follows dead letters.

do $$
declare
    grantee record;
begin
    for grantee in
        select distinct r.rolname as name
        from pg_roles r, pg_attribute t, aclexplode(t.attacl) a
        where t.attrelid = 'meshhook.queue_config'::regclass and t.attname = 'max_running'
          and a.privilege_type = 'UPDATE' and a.grantee = r.oid
    loop
        execute format('grant update (dead_letter_follow_up) on meshhook.queue_config to %I',
            grantee.name);
    end loop;
end
$$;

update meshhook.role_grants set columns = columns || array['dead_letter_follow_up']
    where kind = 'oncall' and object = 'table meshhook.queue_config' and privilege = 'update'
      and not 'dead_letter_follow_up' = any (columns);
