-- Priorities in SQL: an argument of the functions that enqueue, and meshhook.set_priority for jobs
-- that wait and for dead letters.
-- Locks: none that others hold; where there are roles that are on call, the ACCESS SHARE of a grant.
-- Time at size: milliseconds; no queue is touched.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

-- The number of a priority by its name, or by its number as text; null for null. The error is MHQ07.
create function meshhook.priority_number(priority text) returns integer
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    if priority not in ('0', '1', '2', '3', 'urgent', 'high', 'normal', 'low') then
        raise exception using errcode = 'MHQ07', message = format(
            'priority is urgent, high, normal or low, or 0 to 3, got "%s"', left(priority, 100));
    end if;
    return case priority when 'urgent' then 0 when 'high' then 1 when 'normal' then 2
        when 'low' then 3 else priority::integer end;
end
$$;

-- Headers with a priority among them; as they are if none is given. The error is MHQ07.
create function meshhook.headers_with_priority(headers jsonb, priority text) returns jsonb
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
    number integer := meshhook.priority_number(priority);
begin
    -- What are no headers is refused with them.
    if number is null or jsonb_typeof(headers) not in ('object', 'null') then
        return headers;
    end if;
    if headers ? 'meshhook-priority' then
        raise exception using errcode = 'MHQ07', message = format(
            'priority "%s" was given beside the header meshhook-priority, which is the priority',
            priority), hint = 'Leave one of them out.';
    end if;
    return coalesce(nullif(headers, 'null'), '{}')
        || jsonb_build_object('meshhook-priority', number);
end
$$;

-- * Functions that enqueue: as before, with a priority as their last argument

drop function meshhook.enqueue_unique(
    text, jsonb[], text[], jsonb, interval, text, text, interval, text);
drop function meshhook.enqueue_many(
    text, jsonb[], jsonb, interval, text, text[], text, interval, text);
drop function meshhook.enqueue(text, jsonb, jsonb, interval, text, text, text, interval, text);
drop function meshhook.enqueue_group(
    text, jsonb[], text, text, jsonb, jsonb, interval, jsonb, interval, text);
drop function meshhook.publish(text, jsonb, jsonb, interval, text);
drop function meshhook.add_schedule(
    text, text, text, interval, text, jsonb, jsonb, text, text, text, timestamptz);

-- Stores jobs in the transaction of the caller unless another job has their unique key, all or none,
-- and returns what became of each, in order: new, existing or replaced, with the id of the job that
-- has the key. With `error`, a job that has a key fails it all, as MHQ11.
-- As sql/enqueue_unique.sql of the library, where the locks are explained.
create function meshhook.enqueue_unique(
    queue text, messages jsonb[], unique_keys text[], headers jsonb default null,
    delay interval default null, key text default null, unique_until text default null,
    unique_for interval default null, on_conflict text default 'existing',
    priority text default null)
returns table (msg_id bigint, outcome text)
language plpgsql set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    seconds double precision := extract(epoch from unique_for);
    until_started boolean := coalesce(enqueue_unique.unique_until = 'started', false);
    is_replacing boolean := enqueue_unique.on_conflict = 'replace';
    is_error boolean := enqueue_unique.on_conflict = 'error';
    stored jsonb;
    statement text;
    asked text[];
    bodies jsonb[];
    found_keys text[] := '{}';
    found_ids bigint[] := '{}';
    found_outcomes text[] := '{}';
    lost text[];
    refused record;
    new_ids bigint[];
begin
    enqueue_unique.headers := meshhook.headers_with_priority(
        enqueue_unique.headers, enqueue_unique.priority);
    stored := meshhook.headers_with_key(enqueue_unique.queue, meshhook.check_jobs(
        enqueue_unique.queue, enqueue_unique.messages, enqueue_unique.headers,
        enqueue_unique.delay), enqueue_unique.key);
    perform meshhook.check_unique(enqueue_unique.unique_keys,
        cardinality(enqueue_unique.messages), enqueue_unique.unique_until,
        enqueue_unique.unique_for, enqueue_unique.on_conflict);
    -- Of jobs with one key the first is stored, or the last one if it replaces the others.
    select array_agg(k.key order by k.position), array_agg(k.message order by k.position)
        into asked, bodies
        from (
            select i.key, min(i.position) as position,
                (array_agg(i.message order by
                    case when is_replacing then -i.position else i.position end))[1] as message
            from unnest(enqueue_unique.unique_keys, enqueue_unique.messages)
                with ordinality as i (key, message, position)
            group by i.key
        ) k;
    -- The common case: nobody has had any of the keys. Only what sends is planned anew.
    if not exists (
        select from meshhook.unique_keys u
        where u.queue = enqueue_unique.queue and u.key = any (asked))
    then
        new_ids := array(
            select nextval(pg_get_serial_sequence(
                format('pgmq.%I', 'q_' || enqueue_unique.queue), 'msg_id')::regclass)
            from unnest(asked));
        with taken as (
            insert into meshhook.unique_keys as u
                (queue, key, msg_id, enqueued_at, until_started, expires_at)
            select enqueue_unique.queue, n.key, n.msg_id, now(), until_started,
                clock_timestamp() + make_interval(secs => seconds)
            from unnest(asked, new_ids) as n (key, msg_id)
            order by n.key collate "C"
            on conflict (queue, key) do nothing
            returning u.key, u.msg_id
        )
        select array_agg(t.key), array_agg(t.msg_id) into found_keys, found_ids from taken t;
        execute format($sql$
            insert into pgmq.%I (msg_id, vt, message, headers) overriding system value
            select n.msg_id, clock_timestamp() + make_interval(secs => $5), n.message,
                coalesce($4, '{}') || meshhook.unique_header(n.key, $6, $7)
            from unnest($1, $2, $3) with ordinality as n (msg_id, message, key, position)
            where $8 is null or n.msg_id = any ($8)
            order by n.position
            $sql$, 'q_' || enqueue_unique.queue)
            using new_ids, bodies, asked, stored,
                coalesce(extract(epoch from enqueue_unique.delay), 0)::double precision,
                until_started, seconds,
                case when cardinality(found_ids) = cardinality(new_ids) then null
                    else coalesce(found_ids, '{}') end;
        found_outcomes := array_fill('new'::text, array[coalesce(cardinality(found_ids), 0)]);
        select array_agg(a.key order by a.position), array_agg(a.message order by a.position)
            into asked, bodies
            from unnest(asked, bodies) with ordinality as a (key, message, position)
            where (a.key = any (found_keys)) is not true;
    end if;
    statement := format($sql$
        with item as materialized (
            select * from unnest($1::text[], $2::jsonb[]) with ordinality
                as item (key, message, position)
        ), seen as materialized (
            select i.*, u.msg_id, u.enqueued_at, u.until_started, u.expires_at, q.read_ct
            from item i
            left join lateral (
                select u.* from meshhook.unique_keys u
                where u.queue = $7::text and u.key = any (array[i.key])
                limit 1
            ) u on true
            left join lateral (
                select q.read_ct from pgmq.%1$I q
                where q.msg_id = any (array[u.msg_id]) and q.enqueued_at = u.enqueued_at
                limit 1
            ) q on true
        ), unstarted as materialized (
            select q.msg_id from seen s, pgmq.%1$I q
            where q.msg_id = any (array[s.msg_id]) and q.enqueued_at = any (array[s.enqueued_at])
              and q.read_ct = 0 and s.expires_at is null and s.until_started
              and $8 <> 'replace'
            order by s.key collate "C"
            for share of q
        ), replaceable as materialized (
            select q.msg_id from seen s, pgmq.%1$I q
            where q.msg_id = any (array[s.msg_id]) and q.enqueued_at = any (array[s.enqueued_at])
              and q.read_ct = 0 and (s.expires_at is null or s.expires_at > clock_timestamp())
              and $8 = 'replace'
            order by s.key collate "C"
            for no key update of q
        ), judged as materialized (
            select s.*, coalesce(case
                    when s.expires_at is not null then s.expires_at > clock_timestamp()
                    when not s.until_started then s.read_ct is not null
                    else (s.msg_id in (select u.msg_id from unstarted u)) is true
                        or (s.msg_id in (select r.msg_id from replaceable r)) is true
                end, false) as is_held
            from seen s
        ), numbered as materialized (
            select f.*, nextval((
                select pg_get_serial_sequence('pgmq.%1$I', 'msg_id')::regclass)) as new_msg_id
            from (
                select j.* from judged j
                where not j.is_held and not ($8 = 'error' and exists (
                    select from judged other where other.is_held))
                order by j.position
            ) f
        ), taken as (
            insert into meshhook.unique_keys as u
                (queue, key, msg_id, enqueued_at, until_started, expires_at)
            select $7::text, n.key, n.new_msg_id, now(), $5::boolean,
                clock_timestamp() + make_interval(secs => $6::double precision)
            from numbered n
            order by n.key collate "C"
            on conflict (queue, key) do update
                set msg_id = excluded.msg_id, enqueued_at = excluded.enqueued_at,
                    until_started = excluded.until_started, expires_at = excluded.expires_at
                where (u.key, u.msg_id, u.enqueued_at) in (
                    select n.key, n.msg_id, n.enqueued_at from numbered n)
            returning u.msg_id
        ), sent as (
            insert into pgmq.%1$I (msg_id, vt, message, headers) overriding system value
            select n.new_msg_id, clock_timestamp() + make_interval(secs => $4), n.message,
                coalesce($3::jsonb, '{}') || meshhook.unique_header(n.key, $5, $6)
            from numbered n
            where (n.new_msg_id in (select t.msg_id from taken t)) is true
            order by n.position
        ), replaced as (
            update pgmq.%1$I q
            set vt = clock_timestamp() + make_interval(secs => $4), message = j.message,
                headers = coalesce($3::jsonb, '{}') || meshhook.unique_header(j.key, $5, $6)
            from judged j
            where q.msg_id = any (array[j.msg_id]) and q.enqueued_at = any (array[j.enqueued_at])
              and j.is_held and (j.msg_id in (select r.msg_id from replaceable r)) is true
        ), renewed as (
            update meshhook.unique_keys u
            set until_started = $5,
                expires_at = clock_timestamp() + make_interval(secs => $6::double precision)
            from judged j
            where (select count(*) from replaceable) > 0
              and u.queue = $7::text and u.key = any (array[j.key])
              and u.msg_id = any (array[j.msg_id])
              and j.is_held and (j.msg_id in (select r.msg_id from replaceable r)) is true
        ), answer (key, outcome, msg_id) as (
            select n.key, case when (n.new_msg_id in (select t.msg_id from taken t)) is true
                then 'new' else 'lost' end, n.new_msg_id
            from numbered n
            union all
            select j.key, case
                    when (j.msg_id in (select r.msg_id from replaceable r)) is true then 'replaced'
                    when $8 = 'error' then 'refused'
                    else 'existing' end, j.msg_id
            from judged j
            where j.is_held
        )
        select $9::text[] || coalesce(array_agg(a.key) filter (where a.outcome <> 'lost'), '{}'),
            $10::bigint[] || coalesce(array_agg(a.msg_id) filter (where a.outcome <> 'lost'), '{}'),
            $11::text[] || coalesce(array_agg(a.outcome) filter (where a.outcome <> 'lost'), '{}'),
            array_agg(a.key) filter (where a.outcome = 'lost')
        from answer a
        $sql$, 'q_' || enqueue_unique.queue);
    -- Again for each key that a sender was quicker to take: a new snapshot shows its job.
    for attempt in 1 .. 100 loop
        exit when asked is null;
        execute statement into found_keys, found_ids, found_outcomes, lost
            using asked, bodies, stored,
                coalesce(extract(epoch from enqueue_unique.delay), 0)::double precision,
                until_started, seconds, enqueue_unique.queue, enqueue_unique.on_conflict,
                found_keys, found_ids, found_outcomes;
        if is_error then
            select f.key, f.msg_id into refused
                from unnest(found_keys, found_ids, found_outcomes) as f (key, msg_id, outcome)
                where f.outcome = 'refused' order by f.key limit 1;
            if found then
                raise exception using errcode = 'MHQ11', message = format(
                    'job %s of queue "%s" has the unique key "%s"',
                    refused.msg_id, enqueue_unique.queue, refused.key),
                    hint = 'With on_conflict => ''existing'' its id is returned instead.';
            end if;
        end if;
        select array_agg(a.key order by a.position), array_agg(a.message order by a.position)
            into asked, bodies
            from unnest(asked, bodies) with ordinality as a (key, message, position)
            where a.key = any (lost);
    end loop;
    if asked is not null then
        raise exception using errcode = 'serialization_failure',
            message = 'others took the unique key each time', hint = 'Try again.';
    end if;
    return query
        select f.msg_id, case
                when f.outcome <> 'new' or i.is_first then f.outcome
                when is_replacing then 'replaced'
                else 'existing' end
        from (
            select k.key, k.position,
                row_number() over (partition by k.key order by k.position) = 1 as is_first
            from unnest(enqueue_unique.unique_keys) with ordinality as k (key, position)
        ) i
        join unnest(found_keys, found_ids, found_outcomes) as f (key, msg_id, outcome)
            on f.key = i.key
        order by i.position;
end
$$;

-- Stores jobs in the transaction of the caller, all or none, and returns their ids in order. The
-- headers, the delay and the key are those of each job; each has a unique key of its own, if any.
create function meshhook.enqueue_many(
    queue text, messages jsonb[], headers jsonb default null, delay interval default null,
    key text default null, unique_keys text[] default null, unique_until text default null,
    unique_for interval default null, on_conflict text default null,
    priority text default null)
returns setof bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    headers := meshhook.headers_with_priority(headers, priority);
    if unique_keys is not null then
        return query select u.msg_id from meshhook.enqueue_unique(queue, messages, unique_keys,
            headers, delay, key, unique_until, unique_for, coalesce(on_conflict, 'existing')) as u;
        return;
    end if;
    if unique_until is not null or unique_for is not null or on_conflict is not null then
        raise exception using errcode = 'MHQ08',
            message = 'unique_until, unique_for and on_conflict need a unique key';
    end if;
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
    key text default null, unique_key text default null, unique_until text default null,
    unique_for interval default null, on_conflict text default null,
    priority text default null)
returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    return (select id from meshhook.enqueue_many(queue, array[message], headers, delay, key,
        case when unique_key is not null then array[unique_key] end, unique_until, unique_for,
        on_conflict, priority) as id);
end
$$;

-- Stores jobs as a group, in the transaction of the caller, all or none, and returns their ids in
-- order. When the last of them has its final outcome, the callback is enqueued, once.
create function meshhook.enqueue_group(
    queue text, messages jsonb[], name text default null, callback_queue text default null,
    callback_message jsonb default null, callback_headers jsonb default null,
    callback_delay interval default null, headers jsonb default null, delay interval default null,
    key text default null,
    priority text default null)
returns setof bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    group_id uuid := gen_random_uuid();
    ids bigint[];
begin
    headers := meshhook.headers_with_priority(headers, priority);
    if (callback_queue is null) <> (callback_message is null) then
        raise exception using errcode = 'MHQ07',
            message = 'callback_queue and callback_message are given together, or neither is';
    end if;
    headers := meshhook.check_jobs(queue, messages, headers, delay);
    headers := coalesce(meshhook.headers_with_key(queue, headers, key), '{}')
        || jsonb_build_object('meshhook-group', group_id);
    execute format(
        'with stored as (
            insert into pgmq.%I (vt, message, headers)
            select clock_timestamp() + make_interval(secs => $3), item.message, $2
            from unnest($1) with ordinality as item (message, position)
            order by item.position
            returning msg_id
        )
        select coalesce(array_agg(msg_id), ''{}'') from stored', 'q_' || queue)
        into ids
        using messages, headers, coalesce(extract(epoch from delay), 0)::double precision;
    perform meshhook.create_group(group_id, queue, name, ids, callback_queue, callback_message,
        callback_headers, coalesce(extract(epoch from callback_delay), 0)::double precision);
    return query select i from unnest(ids) as i;
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
    key text default null,
    priority text default null)
returns table (queue text, msg_id bigint)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    bound text[];
    smallest record;
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

-- Stores a schedule, or changes it, and returns whether anything was changed. It has a cron
-- expression, or a number of seconds. Without `next_at`, a worker works out the first due time from
-- now on. The errors are those of check_jobs, and MHQ08 for anything that a schedule cannot have.
-- Locks: the row. Index: the primary key.
create function meshhook.add_schedule(
    queue text, name text, cron text default null, every interval default null,
    time_zone text default 'UTC', message jsonb default '{}', headers jsonb default null,
    key text default null, missed text default 'once', overlap text default 'allow',
    next_at timestamptz default null,
    priority text default null)
returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    seconds numeric := extract(epoch from every);
    fault text;
begin
    headers := meshhook.headers_with_priority(headers, priority);
    headers := meshhook.check_jobs(queue, array[message], headers, null);
    perform meshhook.headers_with_key(queue, headers, key);
    fault := case
        when name is null or name !~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$' then format(
            'the name of a schedule is 1 to 100 characters of a-z, A-Z, 0-9, _, . and -, and '
            'starts with a letter or digit, got %s', coalesce(left(name, 100), 'null'))
        when num_nonnulls(cron, every) <> 1 then 'a schedule has either cron or every'
        when length(cron) not between 1 and 200 then format(
            'cron is text of 1 to 200 characters, got %s', length(cron))
        when seconds not between 1 and 31622400 or seconds <> trunc(seconds) then format(
            'every is whole seconds, from 1 second to 366 days, got %s', every)
        when length(time_zone) between 1 and 100 is not true then format(
            'time_zone is a name such as Europe/Berlin, got %s',
            coalesce(left(time_zone, 100), 'null'))
        when missed is null or missed not in ('skip', 'once', 'all') then format(
            'missed is skip, once or all, got %s', coalesce(left(missed, 100), 'null'))
        when overlap is null or overlap not in ('allow', 'skip') then format(
            'overlap is allow or skip, got %s', coalesce(left(overlap, 100), 'null'))
    end;
    if fault is not null then
        raise exception using errcode = 'MHQ08', message = fault;
    end if;
    -- Whoever declares what is there already needs no right to change it.
    if exists (
        select from meshhook.schedules s
        where s.queue = add_schedule.queue and s.name = add_schedule.name
          and (s.cron, s.every_seconds, s.time_zone, s.message, s.headers, s.key, s.missed,
                s.overlap)
            is not distinct from (add_schedule.cron, seconds::integer, add_schedule.time_zone,
                add_schedule.message, add_schedule.headers, add_schedule.key, add_schedule.missed,
                add_schedule.overlap))
    then
        return false;
    end if;
    insert into meshhook.schedules as s (queue, name, cron, every_seconds, time_zone, message,
        headers, key, missed, overlap, next_at, try_at)
    values (add_schedule.queue, add_schedule.name, add_schedule.cron, seconds::integer,
        add_schedule.time_zone, add_schedule.message, add_schedule.headers, add_schedule.key,
        add_schedule.missed, add_schedule.overlap, add_schedule.next_at,
        coalesce(add_schedule.next_at, clock_timestamp()))
    on conflict on constraint schedules_pkey do update
        set cron = excluded.cron, every_seconds = excluded.every_seconds,
            time_zone = excluded.time_zone, message = excluded.message,
            headers = excluded.headers, key = excluded.key, missed = excluded.missed,
            overlap = excluded.overlap, error = null, failed_at = null,
            next_at = case when (s.cron, s.every_seconds, s.time_zone) is distinct from
                (excluded.cron, excluded.every_seconds, excluded.time_zone)
                then excluded.next_at else s.next_at end,
            try_at = case when (s.cron, s.every_seconds, s.time_zone) is distinct from
                (excluded.cron, excluded.every_seconds, excluded.time_zone)
                then excluded.try_at else coalesce(s.next_at, excluded.try_at) end;
    return true;
end
$$;

comment on function meshhook.enqueue_unique(
    text, jsonb[], text[], jsonb, interval, text, text, interval, text, text) is
    'Stores jobs with unique keys in the transaction of the caller, and returns for each the msg_id of '
    'the job that has its key, and the outcome: new, existing or replaced. Arguments may be added: '
    'pass all but the first three by name.';
comment on function meshhook.enqueue_many(
    text, jsonb[], jsonb, interval, text, text[], text, interval, text, text) is
    'Stores jobs in the transaction of the caller, and returns their msg_ids in order. Arguments may '
    'be added: pass all but the first two by name.';
comment on function meshhook.enqueue(
    text, jsonb, jsonb, interval, text, text, text, interval, text, text) is
    'Stores a job in the transaction of the caller, and returns its msg_id. Arguments may be added: '
    'pass all but the first two by name.';
comment on function meshhook.enqueue_group(
    text, jsonb[], text, text, jsonb, jsonb, interval, jsonb, interval, text, text) is
    'Stores jobs as a group in the transaction of the caller, and returns their msg_ids in order. '
    'Arguments may be added: pass all but the first two by name.';
comment on function meshhook.publish(
    text, jsonb, jsonb, interval, text, text) is
    'Stores a message in each queue that is bound to the topic, in the transaction of the caller, '
    'and returns the queues with the msg_ids. Arguments may be added: pass all but the first two by '
    'name.';
comment on function meshhook.add_schedule(
    text, text, text, interval, text, jsonb, jsonb, text, text, text, timestamptz, text) is
    'Stores a schedule, or changes it, and returns whether anything was changed. Arguments may be '
    'added: pass all but the first two by name.';

-- * Jobs that are stored

-- Sets the priority of messages that wait, and of dead letters where `state` is null. In a queue with
-- priorities, a message that is due waits anew from now on: with its old time it would lie below where
-- claims look in its new band, and only their sweeps would find it.
-- Locks: the messages and dead letters, skipping locked ones: those are being claimed or settled, and
-- are left alone.
-- Indexes: the primary key of the queue's table, q_<queue>_dlq_origin_idx.
create function meshhook.prioritize_messages(
    queue text, msg_ids bigint[], priority integer, state text)
returns table (msg_id bigint, result text, was text, at timestamptz)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    is_prioritized boolean := coalesce((select c.prioritized from meshhook.queue_config c
        where c.queue = prioritize_messages.queue), false);
begin
    return query execute format($query$
        with wanted as materialized (
            select distinct u.msg_id from unnest($2) as u (msg_id)
        ), seen as materialized (
            select q.msg_id from wanted w, pgmq.%1$I q where q.msg_id = any (array[w.msg_id])
        ), locked as materialized (
            select q.msg_id, meshhook.message_state_now(q.vt, q.read_ct, q.headers) as state,
                meshhook.priority_of(q.headers) as band
            from seen s, pgmq.%1$I q
            where q.msg_id = any (array[s.msg_id])
            for update of q skip locked
        ), changed as (
            update pgmq.%1$I q
            set headers = meshhook.headers_object(q.headers)
                    || jsonb_build_object('meshhook-priority', $3),
                vt = case when $5 and l.state = 'ready' then clock_timestamp() else q.vt end
            from locked l
            where q.msg_id = any (array[l.msg_id]) and l.state in ('ready', 'scheduled', 'retrying')
              and l.band <> $3 and ($4 is null or l.state = $4)
            returning q.msg_id, q.vt
        ), dead as materialized (
            select w.msg_id, d.msg_id as dead_letter_id
            from wanted w, pgmq.%2$I d
            where $4 is null and w.msg_id not in (select s.msg_id from seen s)
              and left(d.headers #>> '{meshhook-dead-letter,msg_id}', 20) = w.msg_id::text
              and coalesce(d.headers #>> '{meshhook-dead-letter,queue}', $1) = $1
              and meshhook.priority_of(d.headers) <> $3
            for update of d skip locked
        ), marked as (
            update pgmq.%2$I d
            set headers = meshhook.headers_object(d.headers)
                || jsonb_build_object('meshhook-priority', $3)
            from dead e
            where d.msg_id = any (array[e.dead_letter_id])
            returning e.msg_id
        )
        select w.msg_id, case
                when c.msg_id is not null or w.msg_id in (select m.msg_id from marked m)
                    then 'reprioritized'
                when s.msg_id is not null or f.outcome is not null then 'unchanged'
                else 'not_found' end,
            case when s.msg_id is null then f.outcome else coalesce(l.state, 'running') end,
            case when s.msg_id is null then f.finished_at else c.vt end
        from wanted w
        left join seen s on s.msg_id = w.msg_id
        left join locked l on l.msg_id = w.msg_id
        left join changed c on c.msg_id = w.msg_id
        left join lateral meshhook.final_outcome($1, w.msg_id) f on s.msg_id is null
        order by w.msg_id
        $query$, 'q_' || queue, 'q_' || queue || '_dlq')
        using queue, msg_ids, priority, state, is_prioritized;
    if meshhook.may_notify() then
        perform pg_notify('meshhook_wake_' || queue, '');
    end if;
end
$$;

-- Sets the priority of jobs that wait, and of dead letters, which keep it when they are replayed: those
-- with the ids, or else up to `max_jobs` that fit and wait, the oldest first. A job that is due counts
-- as waiting from now on. For each job `result` is reprioritized, unchanged or not_found; `was` its
-- state or outcome; and `at` when it is ready, or when it had left its queue.
create function meshhook.set_priority(
    queue text, msg_ids bigint[] default null, priority text default null,
    run_id text default null, workflow_id text default null, project_id text default null,
    key text default null, state text default null, max_jobs integer default 1000)
returns table (msg_id bigint, result text, was text, at timestamptz)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    number integer := meshhook.priority_number(priority);
begin
    perform meshhook.check_queue(queue);
    if number is null then
        raise exception using errcode = 'MHQ07', message = 'name a priority',
            hint = 'priority => ''urgent'', high, normal or low';
    end if;
    return query execute '
        with changed as materialized (
            select * from meshhook.prioritize_messages($1, $2, $3, $4)
        ), written as materialized (
            select meshhook.audit(''jobs.reprioritized'', $1, $5,
                count(*) filter (where c.result = ''reprioritized''),
                jsonb_build_object(''priority'', $3))
            from changed c
        )
        -- Asked for, so that it is written.
        select c.* from changed c where (select count(*) from written) >= 0'
        using queue, coalesce(msg_ids, meshhook.matching_messages(
                queue, run_id, workflow_id, project_id, key, state, max_jobs)), number, state,
            jsonb_build_object('msg_ids', msg_ids[1:100], 'run_id', run_id,
                'workflow_id', workflow_id, 'project_id', project_id, 'key', key, 'state', state);
end
$$;

comment on function meshhook.set_priority(
    text, bigint[], text, text, text, text, text, text, integer) is
    'Sets the priority of jobs that wait, and of dead letters. Pass all but the queue by name.';

-- * Roles made before
-- Whoever is on call sets priorities, which are headers.

update meshhook.role_grants
    set columns = columns || array['headers']
    where kind = 'oncall' and object in ('queue', 'dead_letters') and privilege = 'update'
      and not 'headers' = any (columns);

do $$
begin
    if exists (select from meshhook.roles r where r.kind = 'oncall') then
        perform meshhook.grant_queue(c.queue_name) from meshhook.queue_config c;
    end if;
end
$$;
