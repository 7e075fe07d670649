-- Enqueuing with unique keys from SQL keeps the plans of its statements where no key is taken.
-- Locks: none that others hold. Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

-- Stores jobs in the transaction of the caller unless another job has their unique key, all or none,
-- and returns what became of each, in order: new, existing or replaced, with the id of the job that
-- has the key. With `error`, a job that has a key fails it all, as MHQ11.
-- As sql/enqueue_unique.sql of the library, where the locks are explained.
create or replace function meshhook.enqueue_unique(
    queue text, messages jsonb[], unique_keys text[], headers jsonb default null,
    delay interval default null, key text default null, unique_until text default null,
    unique_for interval default null, on_conflict text default 'existing')
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
