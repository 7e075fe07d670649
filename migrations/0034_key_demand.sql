-- Demand of queues whose keys have breakers or an order: what an open breaker keeps back, and what
-- waits behind the first message of an ordered key, starts no workers.
-- Locks: none. Time at size: milliseconds; no queue is touched.

set local search_path = pg_catalog, pg_temp;

-- The demand of one queue of which limits or holds keep messages back, from its row of queue_config;
-- the numbers are those of queue_demand. Of each key as many messages are ready as its limits leave
-- room for, of a held one none, and of all no more than those of the queue leave. It looks at the
-- first 1,000 keys that have messages, and at as many for which something is set. Messages of further
-- keys count up to the limit of each key, whatever runs of it. While workers report, messages of a key
-- that has more than may start have no age: they wait for their limit. Of an ordered key only the first
-- message may start; the others count as kept back by their key.
-- A key whose breaker is open counts like a held one; one that is half-open has a limit of 1.
-- Locks: none. Indexes: q_<queue>_key_idx, q_<queue>_running_idx, q_<queue>_vt_idx, q_<queue>_order_idx,
-- keys_pkey, starts_pkey, breakers_pkey.
create or replace function meshhook.limited_demand(
    queue text, config jsonb, lookahead_seconds double precision, workers_report boolean,
    count_limit integer)
returns table (
    sampled_at double precision, ready bigint, ready_is_capped boolean, lost bigint,
    running bigint, scheduled bigint, retrying bigint, hidden_is_capped boolean,
    due_soon bigint, next_due_seconds double precision, oldest_ready_seconds double precision,
    enqueued_total bigint, dead_letters bigint, kept_by_hold bigint, kept_by_key bigint,
    kept_by_queue bigint)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
-- Statistics of a queue are always old: it must read by its indexes all the same.
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
    key_path text := config ->> 'key_path';
    key text := case when key_path is null then
            'meshhook.key_text(q.headers ->> ''x-pgmq-group''::text)'
        else format('meshhook.key_text(q.message #>> %L::text[])',
            string_to_array(key_path, '.')) end;
begin
    return query execute format($query$
        with recursive set_keys as materialized (
            select s.* from (
                select coalesce(k.key, b.key) as key, k.max_starts,
                    -- One probe at a time.
                    case when b.probe_at <= now() then 1 else k.max_running end as max_running,
                    coalesce(k.held_until > now() or b.probe_at > now(), false) as is_held
                from (select k.* from meshhook.keys k where k.queue = $3) k
                full join (
                    select b.* from meshhook.breakers b
                    where b.queue = $3 and b.opened_at is not null and $10) b
                on b.key = k.key) s
            where s.max_running is not null or s.max_starts is not null or s.is_held
            order by s.key limit 1000
        ), leased as materialized (
            select r.key, count(*) as n from (
                select %5$s as key, q.vt from pgmq.%1$I q where %5$s >= ''
                order by %5$s, q.vt limit 10 * $1) r
            where r.vt > now() group by r.key
        ), queue_room as materialized (
            -- Null is any number, here and below.
            select greatest(least($4 - (select coalesce(sum(r.n), 0) from leased r),
                meshhook.free_starts($7, $9, (select t.full_at from meshhook.starts t
                    where t.queue = $3 and t.is_of_queue and t.key = ''))), case
                when $4 is not null or $7 is not null then 0 end)::bigint as n
        ), walked (key, vt, is_lost, number) as (
            -- Each step goes to the first entry of the next key, which is its oldest message.
            (select %4$s, q.vt, %6$s, 1 from pgmq.%1$I q order by %4$s, q.vt limit 1)
            union all
            select n.key, n.vt, n.is_lost, w.number + 1 from walked w cross join lateral (
                select %4$s as key, q.vt, %6$s as is_lost from pgmq.%1$I q
                where %4$s > w.key order by %4$s, q.vt limit 1) n
            where w.number <= 1000
        ), looked as materialized (
            select l.key, l.vt, l.is_lost, coalesce(s.is_held, false) as is_held,
                case
                    -- Its first message keeps the others back, because it is not due.
                    when $11 and (select q.vt > now() from pgmq.%1$I q where %4$s = l.key
                        order by %4$s, meshhook.place_in_order(q.msg_id, q.headers), q.msg_id
                        limit 1) then 0
                    else %7$s end as room
            from (
                select w.key, w.vt, w.is_lost from walked w where w.number <= 1000 and w.vt <= now()
                union all
                select s.key, null, null from set_keys s
                where s.key > (select w.key from walked w where w.number = 1000)
            ) l left join set_keys s on s.key = l.key left join leased r on r.key = l.key
        ), read as materialized (
            -- Of each key what may start and one more, those with the least room first.
            select l.key, l.room, t.vt, t.is_lost, t.number from (
                select l.key, l.room from looked l
                where not l.is_held order by l.room nulls last) l
            cross join lateral (
                select q.vt, q.is_lost, row_number() over () as number from (
                    select q.vt, %6$s as is_lost from pgmq.%1$I q
                    where (%4$s, q.vt) >= (l.key, '-infinity'::timestamptz)
                        and (%4$s, q.vt) <= (l.key, now())
                    order by %4$s, q.vt limit least(l.room + 1, $1)) q) t
            limit $1 + 2000
        ), may as materialized (
            select r.key, r.vt, r.is_lost from read r where r.room is null or r.number <= r.room
            limit $1
        ), taken as materialized (
            select m.key, count(*) as n from may m group by m.key
        ), bound as materialized (
            -- The keys whose room does not suffice for what they have.
            select r.key, r.room from read r where r.number > r.room
        ), gaps as (
            -- Between the keys that it has looked at, from the last in order on.
            select g.key as after, lead(g.key) over (order by g.key) as before from (
                select w.key from walked w where w.number = 1000
                union
                select s.key from set_keys s
                where s.key > (select w.key from walked w where w.number = 1000)) g
            where exists (select from walked w where w.number > 1000)
                and (select count(*) from may) < $1
        ), far as materialized (
            (select t.* from gaps g cross join lateral (
                (select q.msg_id, %4$s as key, q.vt, %6$s as is_lost from pgmq.%1$I q
                where %4$s > g.after and %4$s < g.before order by %4$s, q.vt limit $1)
                union all
                (select q.msg_id, %4$s, q.vt, %6$s from pgmq.%1$I q
                where %4$s > g.after and g.before is null order by %4$s, q.vt limit $1)) t
            limit $1)
            union
            -- What is later may stand in its way there; here, what is kept back.
            select t.* from (
                select q.msg_id, %4$s as key, q.vt, %6$s as is_lost from pgmq.%1$I q
                where q.vt <= now() and exists (select from gaps) order by q.vt limit $1) t
            where t.key > (select w.key from walked w where w.number = 1000)
                and not exists (select from set_keys s where s.key = t.key)
        ), far_numbered as materialized (
            select f.vt, f.is_lost, coalesce(row_number() over (
                partition by f.key order by f.vt) <= least($5, $8), true) as is_within
            from far f where f.vt <= now()
        ), all_may as materialized (
            select count(*) filter (where not a.is_lost) as ready,
                count(*) filter (where a.is_lost) as lost
            from (
                select m.is_lost from may m
                union all
                select f.is_lost from far_numbered f where f.is_within) a
        ), within as materialized (
            select least(a.ready, r.n, $1) as ready,
                least(a.lost, r.n - least(a.ready, r.n), $1) as lost,
                least(greatest(a.ready + a.lost - r.n, 0), $1) as kept
            from all_may a cross join queue_room r
        ), oldest as materialized (
            select min(a.vt) as vt from (
                select l.key, l.vt, l.is_lost from looked l where l.room is null or l.room > 0
                union all
                select m.key, m.vt, m.is_lost from may m
                union all
                select null, f.vt, f.is_lost from far_numbered f
                where least($5, $8) is null) a
            left join bound b on b.key = a.key
            where not a.is_lost and isfinite(a.vt)
                and (not $6 or (b.key is null and (select w.kept from within w) = 0))
        ), hidden as materialized (
            select q.msg_id, q.vt, %6$s as is_running, q.read_ct = 0 as is_scheduled, %4$s as key
            from pgmq.%1$I q where q.vt > now() order by q.vt limit $1
        ), hidden_count as materialized (
            select count(*) filter (where h.is_running) as running,
                count(*) filter (where h.is_scheduled) as scheduled,
                count(*) filter (where not h.is_running and not h.is_scheduled) as retrying,
                count(*) as n,
                min(h.vt) filter (where not h.is_running and isfinite(h.vt)
                    and s.is_held is not true) as next_due
            from hidden h left join set_keys s on s.key = h.key
        ), due_soon as materialized (
            select count(*) as n from (
                select h.key, row_number() over (partition by h.key order by h.vt) as number
                from hidden h
                where not h.is_running and h.vt <= now() + make_interval(secs => $2) and case
                    when $11 then h.msg_id = (select q.msg_id from pgmq.%1$I q
                        where %4$s = h.key
                        order by %4$s, meshhook.place_in_order(q.msg_id, q.headers), q.msg_id
                        limit 1) else true end) l
            left join set_keys s on s.key = l.key
            left join leased r on r.key = l.key
            left join taken t on t.key = l.key
            cross join lateral (select %7$s as n) room
            where room.n is null or l.number <= room.n - coalesce(t.n, 0)
        )
        select extract(epoch from now())::double precision, w.ready, w.ready + w.lost >= $1, w.lost,
            h.running, h.scheduled, h.retrying, h.n >= $1,
            least(d.n, r.n - w.ready - w.lost),
            extract(epoch from h.next_due - now())::double precision,
            case when w.ready > 0 then
                coalesce(extract(epoch from now() - o.vt), 0) else 0 end::double precision,
            (select case when s.is_called then s.last_value else 0 end from %3$s s),
            (select count(*) from (select from pgmq.%2$I limit $1) c),
            (select count(*) from (
                select from set_keys s cross join lateral (
                    select from pgmq.%1$I q
                    where (%4$s, q.vt) >= (s.key, '-infinity'::timestamptz)
                        and (%4$s, q.vt) <= (s.key, now())
                    limit $1) t
                where s.is_held limit $1) c),
            (select count(*) from (
                select from bound b cross join lateral (
                    select from pgmq.%1$I q
                    where (%4$s, q.vt) >= (b.key, '-infinity'::timestamptz)
                        and (%4$s, q.vt) <= (b.key, now())
                    offset b.room limit $1) t
                limit $1) c),
            w.kept
        from within w, oldest o, hidden_count h, due_soon d, queue_room r
        $query$, 'q_' || queue, 'q_' || queue || '_dlq',
        -- Read as a table: the functions for sequences keep their locks to the end.
        pg_get_serial_sequence(format('pgmq.%I', 'q_' || queue), 'msg_id'),
        format('((%s) collate "C")', key),
        format('((case when meshhook.has_open_attempt(q.read_ct, q.headers) then %s end) '
            'collate "C")', key),
        '(q.read_ct > 0 and q.read_ct > meshhook.settled_attempts(q.headers))',
        -- What limits leave of a key l.key, of which s is set and r runs; null is any number.
        $room$case when s.is_held then 0
            when coalesce(s.max_running, $5, s.max_starts, $8) is not null then greatest(least(
                least(coalesce(s.max_running, $5), case when $11 then 1 end) - coalesce(r.n, 0),
                case when coalesce(s.max_starts, $8) is not null then meshhook.free_starts(
                    coalesce(s.max_starts, $8), $9, (select t.full_at from meshhook.starts t
                        where t.queue = $3 and not t.is_of_queue and t.key = l.key)) end), 0)
            end::bigint$room$)
        using count_limit, lookahead_seconds, queue, (config ->> 'max_running')::integer,
            case when (config ->> 'ordered')::boolean then 1
                else (config ->> 'max_running_per_key')::integer end, workers_report,
            (config ->> 'max_starts')::integer, (config ->> 'max_starts_per_key')::integer,
            (config ->> 'starts_period_seconds')::double precision,
            config ->> 'breaker_failures' is not null, (config ->> 'ordered')::boolean;
end
$$;

-- The demand of each queue named, one row each in the order given, whatever state it is in: a queue
-- that cannot be read has its reason in `problem` and disturbs no other.
-- Before it reads a queue named in `waiting`, it says that somebody waits for its messages, for the
-- next `waiting_seconds`; what is sent from then on notifies. Counts stop at `count_limit` for the
-- messages that are ready and at as many for those that are not. Ready are those that may start now:
-- what a hold, the limit of a key or that of the queue keeps back is counted apart, to as many each.
-- Where the keys are in bodies that the role may not read, only the limit of the queue is known.
-- Locks: none; waits at most 200 ms for a queue's table. Index: q_<queue>_vt_idx; of a queue with
-- limits, those of limited_demand.
create or replace function meshhook.queue_demand(
    queue_names text[], lookahead_seconds double precision[], waiting text[],
    waiting_seconds double precision, count_limit integer default 10000)
returns table (
    queue_name text, problem text, problem_state text, config jsonb,
    sampled_at double precision, ready bigint, ready_is_capped boolean, lost bigint,
    running bigint, scheduled bigint, retrying bigint, hidden_is_capped boolean,
    due_soon bigint, next_due_seconds double precision, oldest_ready_seconds double precision,
    enqueued_total bigint, dead_letters bigint, workers jsonb, kept_by_hold bigint,
    kept_by_key bigint, kept_by_queue bigint)
language plpgsql volatile
set lock_timeout = '200ms' set search_path = pg_catalog, pg_temp as $$
declare
    queue_table text;
    waiting_until bigint := (extract(epoch from clock_timestamp()) + waiting_seconds) * 1000;
    place integer;
    is_limited boolean;
    room bigint;
begin
    for place in 1 .. coalesce(array_length(queue_names, 1), 0) loop
        queue_name := queue_names[place];
        problem := null;
        problem_state := null;
        kept_by_hold := 0;
        kept_by_key := 0;
        kept_by_queue := 0;
        begin
            perform meshhook.check_queue_name(queue_name);
            select to_jsonb(c) into config from meshhook.queue_config c
                where c.queue_name = queue_names[place];
            queue_table := 'q_' || queue_name;
            if config is null
                or to_regclass(format('pgmq.%I', queue_table)) is null
                or to_regclass(format('pgmq.%I', queue_table || '_dlq')) is null
                or to_regclass(format('meshhook.%I', 'waiting_' || queue_name)) is null
            then
                raise exception 'the queue does not exist, or only in part' using errcode = 'MHQ02';
            end if;
            if queue_name = any (waiting) then
                perform setval(format('meshhook.%I', 'waiting_' || queue_name)::regclass,
                               waiting_until);
            end if;
            select jsonb_agg(jsonb_build_object(
                    'worker', w.worker, 'host', w.host, 'concurrency', w.concurrency,
                    'running', w.running, 'processed', w.processed,
                    'busy_seconds', w.busy_seconds,
                    'oldest_running_seconds', w.oldest_running_seconds,
                    'cordoned', w.cordoned and coalesce(w.cordoned_until > now(), false),
                    'cordon_seconds', coalesce(
                        greatest(extract(epoch from w.cordoned_until - now()), 0), 0),
                    'draining', w.draining,
                    'seen_at', extract(epoch from w.seen_at)))
                into workers
                from meshhook.workers w
                where w.queue = queue_names[place] and w.seen_at > now() - interval '30 seconds';
            is_limited := (config ->> 'keyed')::boolean and (
                (config ->> 'ordered')::boolean
                or coalesce(config ->> 'max_running', config ->> 'max_running_per_key',
                    config ->> 'max_starts', config ->> 'max_starts_per_key') is not null
                or exists (select from meshhook.keys k
                    where k.queue = queue_names[place] and k.max_running is not null)
                or exists (select from meshhook.keys k
                    where k.queue = queue_names[place] and k.max_starts is not null)
                or exists (select from meshhook.keys k
                    where k.queue = queue_names[place] and k.held_until > now())
                or (config ->> 'breaker_failures' is not null and exists (
                    select from meshhook.breakers b
                    where b.queue = queue_names[place] and b.opened_at is not null)));
            -- One statement of either, so that all the numbers are of one moment. A role that may not
            -- read bodies knows no keys that are there.
            if is_limited and (config ->> 'key_path' is null or has_column_privilege(
                format('pgmq.%I', queue_table), 'message', 'select'))
            then
                select d.* into sampled_at, ready, ready_is_capped, lost, running, scheduled,
                     retrying, hidden_is_capped, due_soon, next_due_seconds, oldest_ready_seconds,
                     enqueued_total, dead_letters, kept_by_hold, kept_by_key, kept_by_queue
                    from meshhook.limited_demand(
                        queue_names[place], config, lookahead_seconds[place],
                        workers is not null, count_limit) d;
            else
                execute format($query$
                    with visible as (
                        select q.vt, q.read_ct > 0 and q.read_ct > meshhook.settled_attempts(q.headers)
                            as is_lost
                        from pgmq.%1$I q where q.vt <= now() order by q.vt limit $1
                    ), hidden as (
                        select q.vt, q.read_ct > 0 and q.read_ct > meshhook.settled_attempts(q.headers)
                            as is_running, q.read_ct = 0 as is_scheduled
                        from pgmq.%1$I q where q.vt > now() order by q.vt limit $1
                    ), visible_count as (
                        select count(*) filter (where not is_lost) as ready,
                               count(*) filter (where is_lost) as lost, count(*) as n,
                               min(vt) filter (where not is_lost and isfinite(vt)) as oldest
                        from visible
                    ), hidden_count as (
                        select count(*) filter (where is_running) as running,
                               count(*) filter (where is_scheduled) as scheduled,
                               count(*) filter (where not is_running and not is_scheduled) as retrying,
                               count(*) as n,
                               count(*) filter (where not is_running
                                   and vt <= now() + make_interval(secs => $2)) as due_soon,
                               min(vt) filter (where not is_running and isfinite(vt)) as next_due
                        from hidden
                    )
                    select extract(epoch from now()), v.ready, v.n >= $1, v.lost, h.running,
                           h.scheduled, h.retrying, h.n >= $1, h.due_soon,
                           extract(epoch from h.next_due - now()),
                           coalesce(extract(epoch from now() - v.oldest), 0),
                           (select case when s.is_called then s.last_value else 0 end from %3$s s),
                           (select count(*) from (select from pgmq.%2$I limit $1) d)
                    from visible_count v, hidden_count h
                    $query$, queue_table, queue_table || '_dlq',
                    -- Read as a table: the functions for sequences keep their locks to the end.
                    pg_get_serial_sequence(format('pgmq.%I', queue_table), 'msg_id'))
                    into sampled_at, ready, ready_is_capped, lost, running, scheduled, retrying,
                         hidden_is_capped, due_soon, next_due_seconds, oldest_ready_seconds,
                         enqueued_total, dead_letters
                    using count_limit, lookahead_seconds[place];
                room := least((config ->> 'max_running')::integer - running,
                    meshhook.free_starts((config ->> 'max_starts')::integer,
                        (config ->> 'starts_period_seconds')::double precision, (
                            select t.full_at from meshhook.starts t
                            where t.queue = queue_names[place] and t.is_of_queue and t.key = '')));
                if is_limited and room is not null then
                    room := greatest(room, 0);
                    kept_by_queue := greatest(ready + lost - room, 0);
                    ready := least(ready, room);
                    lost := least(lost, room - ready);
                    due_soon := least(due_soon, room - ready - lost);
                    if kept_by_queue > 0 and (ready = 0 or workers is not null) then
                        oldest_ready_seconds := 0;
                    end if;
                end if;
            end if;
            -- Rolling back gives the locks of this queue's tables back at once. Hundreds of queues
            -- would else fill the server's lock table; variables keep their values.
            raise exception using errcode = 'MHQ01';
        exception when sqlstate 'MHQ01' then
            null;
        when others then
            problem := sqlerrm;
            problem_state := sqlstate;
        end;
        return next;
    end loop;
end
$$;
