-- Enqueuing with unique keys, from SQL and by the roles of producers.
-- Locks: none that others hold. Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

-- The header of a job with a unique key. It holds the key until it is done, until it has started, or
-- for some seconds.
create function meshhook.unique_header(key text, until_started boolean, seconds double precision)
returns jsonb
language sql stable parallel safe
return jsonb_build_object('meshhook-unique', jsonb_strip_nulls(jsonb_build_object(
    'key', key, 'until', case when until_started then 'started' end, 'seconds', seconds)));

-- Checks what is to be enqueued with unique keys. The errors are MHQ07 for a key and MHQ08 for how
-- long it is held and what is done about a conflict.
create function meshhook.check_unique(
    unique_keys text[], jobs integer, unique_until text, unique_for interval, on_conflict text)
returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    wrong record;
begin
    if cardinality(unique_keys) <> jobs then
        raise exception using errcode = 'MHQ07', message = format(
            'unique_keys has a key for each job: got %s keys and %s jobs',
            cardinality(unique_keys), jobs);
    end if;
    select k.key, k.position - 1 as position into wrong
        from unnest(unique_keys) with ordinality as k (key, position)
        where k.key is null or length(k.key) not between 1 and 200
        order by k.position limit 1;
    if found then
        raise exception using errcode = 'MHQ07', message = format(
            'unique_key is text of 1 to 200 characters, got %s',
            coalesce(length(wrong.key)::text, 'null')),
            detail = case when jobs > 1 then format(
                'Job %s of the batch, counted from 0.', wrong.position) else '' end;
    end if;
    if unique_until is not null and unique_for is not null then
        raise exception using errcode = 'MHQ08',
            message = 'unique_until and unique_for were both given; leave one of them out';
    end if;
    if unique_until not in ('done', 'started') then
        raise exception using errcode = 'MHQ08', message = format(
            'unique_until is done or started, got %s', left(unique_until, 100));
    end if;
    if unique_for is not null and not (extract(epoch from unique_for) > 0
        and extract(epoch from unique_for) <= 31622400)
    then
        raise exception using errcode = 'MHQ08', message = format(
            'unique_for is more than 0 and up to 366 days, got %s', unique_for);
    end if;
    if on_conflict is null or on_conflict not in ('existing', 'error', 'replace') then
        raise exception using errcode = 'MHQ08', message = format(
            'on_conflict is existing, error or replace, got %s',
            coalesce(left(on_conflict, 100), 'null'));
    end if;
    if on_conflict = 'error' then
        select k.key into wrong from unnest(unique_keys) as k (key)
            group by k.key having count(*) > 1 order by k.key limit 1;
        if found then
            raise exception using errcode = 'MHQ07', message = format(
                'several jobs of the batch have the unique key "%s"', wrong.key),
                hint = 'With on_conflict => ''existing'' they are one job.';
        end if;
    end if;
end
$$;

-- Stores jobs in the transaction of the caller unless another job has their unique key, all or none,
-- and returns what became of each, in order: new, existing or replaced, with the id of the job that
-- has the key. With `error`, a job that has a key fails it all, as MHQ11.
-- As sql/enqueue_unique.sql of the library, where the locks are explained.
create function meshhook.enqueue_unique(
    queue text, messages jsonb[], unique_keys text[], headers jsonb default null,
    delay interval default null, key text default null, unique_until text default null,
    unique_for interval default null, on_conflict text default 'existing')
returns table (msg_id bigint, outcome text)
language plpgsql set search_path = pg_catalog, pg_temp as $$
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
begin
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
        exit when lost is null;
        select array_agg(a.key order by a.position), array_agg(a.message order by a.position)
            into asked, bodies
            from unnest(asked, bodies) with ordinality as a (key, message, position)
            where a.key = any (lost);
    end loop;
    if lost is not null then
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

comment on function meshhook.enqueue_unique(
    text, jsonb[], text[], jsonb, interval, text, text, interval, text) is
    'Stores jobs with unique keys in the transaction of the caller, and returns for each the msg_id of '
    'the job that has its key, and the outcome: new, existing or replaced. Arguments may be added: '
    'pass all but the first three by name.';

drop function meshhook.enqueue(text, jsonb, jsonb, interval, text);
drop function meshhook.enqueue_many(text, jsonb[], jsonb, interval, text);

-- Stores jobs in the transaction of the caller, all or none, and returns their ids in order. The
-- headers, the delay and the key are those of each job; each has a unique key of its own, if any.
create function meshhook.enqueue_many(
    queue text, messages jsonb[], headers jsonb default null, delay interval default null,
    key text default null, unique_keys text[] default null, unique_until text default null,
    unique_for interval default null, on_conflict text default null)
returns setof bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
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
    unique_for interval default null, on_conflict text default null)
returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    return (select id from meshhook.enqueue_many(queue, array[message], headers, delay, key,
        case when unique_key is not null then array[unique_key] end, unique_until, unique_for,
        on_conflict) as id);
end
$$;

comment on function meshhook.enqueue(
    text, jsonb, jsonb, interval, text, text, text, interval, text) is
    'Stores a job in the transaction of the caller, and returns its msg_id. Arguments may be added: '
    'pass all but the first two by name.';
comment on function meshhook.enqueue_many(
    text, jsonb[], jsonb, interval, text, text[], text, interval, text) is
    'Stores jobs in the transaction of the caller, and returns their msg_ids in order. Arguments may '
    'be added: pass all but the first two by name.';

-- * Roles made before
-- Whoever enqueues takes unique keys, and replaces what waits; whoever is on call takes them again
-- for dead letters that are replayed.

insert into meshhook.role_grants (role, kind, object, privilege, columns)
    select r.role, r.kind, p.object, p.privilege, p.columns
    from meshhook.roles r
    join (values
        ('producer', 'table meshhook.unique_keys', 'select', null),
        ('producer', 'table meshhook.unique_keys', 'insert', null),
        ('producer', 'table meshhook.unique_keys', 'update',
            array['msg_id', 'enqueued_at', 'until_started', 'expires_at']),
        ('producer', 'queue', 'update', array['vt', 'message', 'headers']),
        ('producer', 'queue_sequence', 'usage', null),
        ('reader', 'table meshhook.unique_keys', 'select', null),
        ('oncall', 'table meshhook.unique_keys', 'select', null),
        ('oncall', 'table meshhook.unique_keys', 'insert', null),
        ('oncall', 'table meshhook.unique_keys', 'update',
            array['msg_id', 'enqueued_at', 'until_started', 'expires_at'])
    ) as p (kind, object, privilege, columns) on p.kind = r.kind
    on conflict do nothing;

update meshhook.role_grants
    set columns = columns || array['msg_id']
    where kind = 'producer' and object = 'queue' and privilege = 'insert'
      and not 'msg_id' = any (columns);
update meshhook.role_grants
    set columns = columns || array['enqueued_at', 'read_ct']
    where kind = 'producer' and object = 'queue' and privilege = 'select'
      and not 'read_ct' = any (columns);

do $$
declare
    grantee record;
begin
    for grantee in
        select a.rolname as name, bool_or(r.kind in ('producer', 'oncall')) as may_take
        from meshhook.roles r join pg_roles a on a.oid = r.role
        where r.kind in ('producer', 'oncall', 'reader')
        group by a.rolname
    loop
        execute format('grant select on meshhook.unique_keys to %I', grantee.name);
        if grantee.may_take then
            execute format('grant insert, update (msg_id, enqueued_at, until_started, expires_at) '
                'on meshhook.unique_keys to %I', grantee.name);
        end if;
    end loop;
    if exists (select from meshhook.roles r where r.kind = 'producer') then
        perform meshhook.grant_queue(c.queue_name) from meshhook.queue_config c;
    end if;
end
$$;
