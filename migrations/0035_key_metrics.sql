-- What the exporter of metrics reads of the keys of all keyed queues: how many have messages, are held
-- or have an open breaker, how many ordered ones wait for a job that is not due, how long those have
-- waited that wait longest, and what limits, holds and order keep back.
-- Locks: none that others hold. Time at size: milliseconds; no queue is touched.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

-- The keys of one queue, from its row of queue_config: it looks at the first `max_keys` keys that have
-- messages, in the order of their bytes, and at as many that are held. The longest-waiting key is the
-- one with the oldest message that is due among those of which no job runs although neither a hold, a
-- breaker nor a limit is in the way; its age is 0 while there is none. A queue that is full has none. An
-- ordered key waits for as long as its first message has been due: the others wait for that. While
-- the first one is not due, nothing of the key runs and others are due, the key is blocked.
-- Locks: none. Indexes: q_<queue>_key_idx, q_<queue>_running_idx, q_<queue>_order_idx, keys_pkey,
-- keys_hold_idx, starts_pkey, breakers_pkey, breakers_open_idx.
create function meshhook.key_waits(queue text, config jsonb, max_keys integer)
returns table (
    keys bigint, held bigint, open_breakers bigint, oldest_open_breaker_seconds double precision,
    longest_wait_seconds double precision, oldest_held_seconds double precision,
    blocked bigint, oldest_blocked_seconds double precision)
language plpgsql stable
set search_path = pg_catalog, pg_temp
-- Statistics of a queue are always old: it must read by its indexes all the same.
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off as $$
declare
    key_path text := config ->> 'key_path';
    key text := case when key_path is null then
            'meshhook.key_text(q.headers ->> ''x-pgmq-group''::text)'
        else format('meshhook.key_text(q.message #>> %L::text[])',
            string_to_array(key_path, '.')) end;
begin
    return query execute format($query$
        with recursive walked (key, vt, number) as (
            -- Each step goes to the first entry of the next key, which is its oldest message.
            (select %2$s, q.vt, 1 from pgmq.%1$I q order by %2$s, q.vt limit 1)
            union all
            select n.key, n.vt, w.number + 1 from walked w cross join lateral (
                select %2$s as key, q.vt from pgmq.%1$I q
                where %2$s > w.key order by %2$s, q.vt limit 1) n
            where w.number < $2
        ), held as materialized (
            select k.key from meshhook.keys k where k.queue = $1 and k.held_until > now()
            limit 10000
        ), open as materialized (
            select b.key, b.opened_at from meshhook.breakers b
            where b.queue = $1 and b.opened_at is not null limit 10000
        ), leased as materialized (
            select count(*) as n from (
                select q.vt from pgmq.%1$I q where $3 is not null and %3$s >= ''
                order by %3$s, q.vt limit 10000) r
            where r.vt > now()
        ), may_start as materialized (
            select coalesce($3 > (select l.n from leased l), true) and coalesce(meshhook.free_starts(
                $4, $6, (select t.full_at from meshhook.starts t
                    where t.queue = $1 and t.is_of_queue and t.key = '')) >= 1, true) as may
        ), idle as materialized (
            -- first_vt is when the first message of an ordered key falls due.
            select w.key, w.vt, coalesce(f.vt, w.vt) as first_vt
            from walked w left join lateral (
                select q.vt from pgmq.%1$I q where $7 and %2$s = w.key
                order by %2$s, meshhook.place_in_order(q.msg_id, q.headers), q.msg_id limit 1) f
                on true
            where w.vt <= now()
                and not exists (
                    select from pgmq.%1$I q where %3$s = w.key and q.vt > now())
                and not exists (
                    select from meshhook.breakers b
                    where b.queue = $1 and b.key = w.key and b.probe_at > now())
                and not exists (
                    select from meshhook.keys k
                    where k.queue = $1 and k.key = w.key and k.held_until > now())
        ), waiting as (
            select i.first_vt as vt from idle i
            where i.first_vt <= now() and isfinite(i.first_vt)
                and (select m.may from may_start m)
                and coalesce(meshhook.free_starts(coalesce((
                        select k.max_starts from meshhook.keys k
                        where k.queue = $1 and k.key = i.key), $5), $6, (
                    select t.full_at from meshhook.starts t
                    where t.queue = $1 and not t.is_of_queue and t.key = i.key)) >= 1, true)
        )
        select (select count(*) from walked), (select count(*) from held),
            (select count(*) from open),
            coalesce((select extract(epoch from now() - min(o.opened_at)) from open o), 0)
                ::double precision,
            coalesce((select extract(epoch from now() - min(w.vt)) from waiting w), 0)
                ::double precision,
            coalesce((select extract(epoch from now() - min(first.vt))
                from (select h.key from held h limit $2) h
                cross join lateral (
                    select q.vt from pgmq.%1$I q
                    where (%2$s, q.vt) > (h.key, '-infinity'::timestamptz)
                        and (%2$s, q.vt) <= (h.key, now())
                    order by %2$s, q.vt limit 1) first), 0)::double precision,
            (select count(*) from idle i where i.first_vt > now()),
            coalesce((select extract(epoch from now() - min(i.vt)) from idle i
                where i.first_vt > now() and isfinite(i.vt)), 0)::double precision
        $query$, 'q_' || queue, format('((%s) collate "C")', key),
        format('((case when meshhook.has_open_attempt(q.read_ct, q.headers) then %s end) '
            'collate "C")', key))
        using queue, max_keys, (config ->> 'max_running')::integer,
            (config ->> 'max_starts')::integer, (config ->> 'max_starts_per_key')::integer,
            (config ->> 'starts_period_seconds')::double precision, (config ->> 'ordered')::boolean;
end
$$;

-- The keys of every keyed queue at one moment, as key_waits says, and what is kept back, as the
-- operator counts it, up to `count_limit` for each reason: what a key keeps back is by its limits, or,
-- where keys are ordered, by their order. It looks at 1,000 keys of each queue; with
-- more than 20 keyed queues at 20,000 in all, but at no less than 100 of each. A queue that cannot be
-- read has its reason in `problem` and nothing else, and disturbs no other. A role that may not read
-- bodies learns nothing of keys that are there.
-- Locks: none; waits at most 200 ms for a queue's table. Indexes: those of key_waits and of
-- limited_demand.
create function meshhook.key_metrics(count_limit integer default 1000)
returns table (
    queue text, problem text, keys bigint, held bigint, open_breakers bigint,
    oldest_open_breaker_seconds double precision, longest_wait_seconds double precision,
    oldest_held_seconds double precision, kept_by_hold bigint, kept_by_key bigint,
    kept_by_queue bigint, kept_by_order bigint, blocked bigint,
    oldest_blocked_seconds double precision)
language plpgsql volatile
set lock_timeout = '200ms' set search_path = pg_catalog, pg_temp as $$
declare
    config jsonb;
    max_keys integer;
begin
    select least(1000, greatest(100, 20000 / greatest(count(*), 1))) into max_keys
        from meshhook.queue_config c where c.keyed;
    for queue, config in
        select c.queue_name, to_jsonb(c) from meshhook.queue_config c where c.keyed
        order by c.queue_name
    loop
        problem := null;
        begin
            continue when config ->> 'key_path' is not null and not has_column_privilege(
                format('pgmq.%I', 'q_' || queue), 'message', 'select');
            select k.* into keys, held, open_breakers, oldest_open_breaker_seconds,
                    longest_wait_seconds, oldest_held_seconds, blocked, oldest_blocked_seconds
                from meshhook.key_waits(queue, config, max_keys) k;
            kept_by_hold := 0;
            kept_by_key := 0;
            kept_by_queue := 0;
            kept_by_order := 0;
            if (config ->> 'ordered')::boolean
                or coalesce(config ->> 'max_running', config ->> 'max_running_per_key',
                    config ->> 'max_starts', config ->> 'max_starts_per_key') is not null
                or held > 0 or open_breakers > 0
                or exists (select from meshhook.keys k
                    where k.queue = config ->> 'queue_name' and k.max_running is not null)
                or exists (select from meshhook.keys k
                    where k.queue = config ->> 'queue_name' and k.max_starts is not null)
            then
                select d.kept_by_hold, d.kept_by_key, d.kept_by_queue
                    into kept_by_hold, kept_by_key, kept_by_queue
                    from meshhook.limited_demand(queue, config, 0, false, count_limit) d;
                if (config ->> 'ordered')::boolean then
                    kept_by_order := kept_by_key;
                    kept_by_key := 0;
                end if;
            end if;
            -- As in queue_metrics, this gives the locks of the queue's table back at once.
            raise exception using errcode = 'MHQ01';
        exception
            when sqlstate 'MHQ01' then null;
            when query_canceled then raise;
            when others then problem := sqlerrm;
        end;
        return next;
    end loop;
end
$$;

-- * Roles made before
-- Whoever reads figures reads starts, whether `meshhook roles` granted to them or an administrator did.

do $$
declare
    grantee record;
begin
    for grantee in
        select case a.grantee when 0 then 'public' else format('%I', a.grantee::regrole) end as name
        from pg_class c, aclexplode(c.relacl) a
        where c.oid = 'meshhook.workers'::regclass and a.privilege_type = 'SELECT'
          and a.grantee <> c.relowner
    loop
        execute format('grant select on meshhook.starts to %s', grantee.name);
    end loop;
end
$$;

insert into meshhook.role_grants (role, kind, object, privilege)
    select r.role, r.kind, 'table meshhook.starts', 'select'
    from meshhook.roles r
    where r.kind in ('reader', 'oncall')
    on conflict do nothing;
