-- Demand of queues with priorities: what waits in each band, so that the operator can plan for the
-- target of each. Locks: none that others hold. Time at size: milliseconds; no queue is touched.

set local search_path = pg_catalog, pg_temp;

-- The demand of one queue with priorities, from its row of queue_config; the numbers are those of
-- queue_demand. Each of the `bands`, from urgent to low, has its `ready` messages and those of them
-- that are `aged` (from 0.8 of the target of the band on they get a part of the claims), whether
-- there are more than were counted (`is_capped`), the seconds that the oldest of them has waited
-- (`oldest_ready_seconds`), the `running` ones, those that fall due within `lookahead_seconds`
-- (`due_soon`), and the `target_seconds`. Counts of ready messages stop at `count_limit` in each
-- band, so that a flood in one hides no other.
-- Locks: none. Indexes: q_<queue>_priority_idx and q_<queue>_vt_idx. The first is compared and
-- sorted by both its columns: with a plain =, the planner may walk q_<queue>_vt_idx.
create function meshhook.priority_demand(
    queue text, config jsonb, lookahead_seconds double precision, count_limit integer)
returns table (
    sampled_at double precision, ready bigint, ready_is_capped boolean, lost bigint,
    running bigint, scheduled bigint, retrying bigint, hidden_is_capped boolean,
    due_soon bigint, next_due_seconds double precision, oldest_ready_seconds double precision,
    enqueued_total bigint, dead_letters bigint, bands jsonb)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
-- Statistics of a queue are always old: it must read by its indexes all the same.
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
    return query execute format($query$
        with band as materialized (
            select b.number::integer - 1 as band, b.target::double precision as target_seconds
            from jsonb_array_elements_text($3 -> 'priority_target_seconds')
                with ordinality as b (target, number)
        ), visible as materialized (
            select b.band, count(*) filter (where not v.is_lost) as ready,
                count(*) filter (where v.is_lost) as lost, count(*) as n,
                count(*) filter (where not v.is_lost
                    and v.vt <= now() - make_interval(secs => 0.8 * b.target_seconds)) as aged,
                min(v.vt) filter (where not v.is_lost and isfinite(v.vt)) as oldest
            from band b left join lateral (
                select q.vt, q.read_ct > 0 and q.read_ct > meshhook.settled_attempts(q.headers)
                    as is_lost
                from pgmq.%1$I q
                where (meshhook.priority_of(q.headers), q.vt) >= (b.band, '-infinity'::timestamptz)
                  and (meshhook.priority_of(q.headers), q.vt) <= (b.band, now())
                order by meshhook.priority_of(q.headers), q.vt
                limit $1) v on true
            group by b.band
        ), hidden as materialized (
            select q.vt, meshhook.priority_of(q.headers) as band,
                q.read_ct > 0 and q.read_ct > meshhook.settled_attempts(q.headers) as is_running,
                q.read_ct = 0 as is_scheduled
            from pgmq.%1$I q where q.vt > now() order by q.vt limit $1
        ), hidden_count as (
            select count(*) filter (where h.is_running) as running,
                count(*) filter (where h.is_scheduled) as scheduled,
                count(*) filter (where not h.is_running and not h.is_scheduled) as retrying,
                count(*) as n,
                count(*) filter (where not h.is_running
                    and h.vt <= now() + make_interval(secs => $2)) as due_soon,
                min(h.vt) filter (where not h.is_running and isfinite(h.vt)) as next_due
            from hidden h
        ), coming as (
            select h.band, count(*) filter (where h.is_running) as running,
                count(*) filter (where not h.is_running
                    and h.vt <= now() + make_interval(secs => $2)) as due_soon
            from hidden h group by h.band
        ), counted as (
            select b.band, b.target_seconds, coalesce(v.ready, 0) as ready,
                coalesce(v.lost, 0) as lost, coalesce(v.n, 0) >= $1 as is_capped,
                coalesce(v.aged, 0) as aged, v.oldest, coalesce(c.running, 0) as running,
                coalesce(c.due_soon, 0) as due_soon
            from band b
            left join visible v on v.band = b.band
            left join coming c on c.band = b.band
        ), waiting as (
            select sum(c.ready)::bigint as ready, bool_or(c.is_capped) as is_capped,
                sum(c.lost)::bigint as lost, min(c.oldest) as oldest,
                jsonb_agg(jsonb_build_object(
                    'target_seconds', c.target_seconds, 'ready', c.ready,
                    'is_capped', c.is_capped, 'aged', c.aged, 'running', c.running,
                    'due_soon', c.due_soon, 'oldest_ready_seconds',
                    greatest(coalesce(extract(epoch from now() - c.oldest), 0), 0))
                    order by c.band) as bands
            from counted c
        )
        select extract(epoch from now())::double precision, w.ready, w.is_capped, w.lost, h.running,
            h.scheduled, h.retrying, h.n >= $1, h.due_soon,
            extract(epoch from h.next_due - now())::double precision,
            coalesce(extract(epoch from now() - w.oldest), 0)::double precision,
            (select case when s.is_called then s.last_value else 0 end from %3$s s),
            (select count(*) from (select from pgmq.%2$I limit $1) d), w.bands
        from waiting w, hidden_count h
        $query$, 'q_' || queue, 'q_' || queue || '_dlq',
        -- Read as a table: the functions for sequences keep their locks to the end.
        pg_get_serial_sequence(format('pgmq.%I', 'q_' || queue), 'msg_id'))
        using count_limit, lookahead_seconds, config;
end
$$;

drop function meshhook.queue_demand(
    text[], double precision[], text[], double precision, integer);

-- The demand of each queue named, one row each in the order given, whatever state it is in: a queue
-- that cannot be read has its reason in `problem` and disturbs no other.
-- Before it reads a queue named in `waiting`, it says that somebody waits for its messages, for the
-- next `waiting_seconds`; what is sent from then on notifies. Counts stop at `count_limit` for the
-- messages that are ready and at as many for those that are not. Ready are those that may start
-- now: what a hold, the limit of a key or that of the queue keeps back is counted apart, to as many
-- each.
-- Where the keys are in bodies that the role may not read, only the limit of the queue is known.
-- Schedules that workers have to look at soon count as messages that fall due: workers fire them.
-- `bands` are the four bands of a queue with priorities, as in priority_demand; null without them.
-- Locks: none; waits at most 200 ms for a queue's table. Index: q_<queue>_vt_idx and
-- schedules_of_queue_idx; of a queue with limits, those of limited_demand; of one with
-- priorities, those of priority_demand.
create function meshhook.queue_demand(
    queue_names text[], lookahead_seconds double precision[], waiting text[],
    waiting_seconds double precision, count_limit integer default 10000)
returns table (
    queue_name text, problem text, problem_state text, config jsonb,
    sampled_at double precision, ready bigint, ready_is_capped boolean, lost bigint,
    running bigint, scheduled bigint, retrying bigint, hidden_is_capped boolean,
    due_soon bigint, next_due_seconds double precision, oldest_ready_seconds double precision,
    enqueued_total bigint, dead_letters bigint, workers jsonb, kept_by_hold bigint,
    kept_by_key bigint, kept_by_queue bigint, bands jsonb)
language plpgsql volatile
set lock_timeout = '200ms' set search_path = pg_catalog, pg_temp as $$
declare
    queue_table text;
    waiting_until bigint := (extract(epoch from clock_timestamp()) + waiting_seconds) * 1000;
    place integer;
    is_limited boolean;
    room bigint;
    sees_schedules boolean := has_table_privilege('meshhook.schedules', 'select');
begin
    for place in 1 .. coalesce(array_length(queue_names, 1), 0) loop
        queue_name := queue_names[place];
        problem := null;
        problem_state := null;
        kept_by_hold := 0;
        kept_by_key := 0;
        kept_by_queue := 0;
        bands := null;
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
            -- One statement of each kind, so that all the numbers are of one moment. A role that
            -- may not read bodies knows no keys that are there.
            if is_limited and (config ->> 'key_path' is null or has_column_privilege(
                format('pgmq.%I', queue_table), 'message', 'select'))
            then
                select d.* into sampled_at, ready, ready_is_capped, lost, running, scheduled,
                     retrying, hidden_is_capped, due_soon, next_due_seconds, oldest_ready_seconds,
                     enqueued_total, dead_letters, kept_by_hold, kept_by_key, kept_by_queue
                    from meshhook.limited_demand(
                        queue_names[place], config, lookahead_seconds[place],
                        workers is not null, count_limit) d;
            elsif (config ->> 'prioritized')::boolean then
                select d.* into sampled_at, ready, ready_is_capped, lost, running, scheduled,
                     retrying, hidden_is_capped, due_soon, next_due_seconds, oldest_ready_seconds,
                     enqueued_total, dead_letters, bands
                    from meshhook.priority_demand(
                        queue_names[place], config, lookahead_seconds[place], count_limit) d;
            else
                execute format($query$
                    with visible as (
                        select q.vt, q.read_ct > 0
                            and q.read_ct > meshhook.settled_attempts(q.headers) as is_lost
                        from pgmq.%1$I q where q.vt <= now() order by q.vt limit $1
                    ), hidden as (
                        select q.vt, q.read_ct > 0
                            and q.read_ct > meshhook.settled_attempts(q.headers) as is_running,
                            q.read_ct = 0 as is_scheduled
                        from pgmq.%1$I q where q.vt > now() order by q.vt limit $1
                    ), visible_count as (
                        select count(*) filter (where not is_lost) as ready,
                               count(*) filter (where is_lost) as lost, count(*) as n,
                               min(vt) filter (where not is_lost and isfinite(vt)) as oldest
                        from visible
                    ), hidden_count as (
                        select count(*) filter (where is_running) as running,
                               count(*) filter (where is_scheduled) as scheduled,
                               count(*) filter (where not is_running
                                   and not is_scheduled) as retrying,
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
            if sees_schedules then
                select due_soon + count(*) filter (where s.try_at
                        <= now() + make_interval(secs => lookahead_seconds[place])),
                    least(next_due_seconds,
                        extract(epoch from min(greatest(s.try_at, now())) - now()))
                    into due_soon, next_due_seconds
                    from (
                        select c.try_at from meshhook.schedules c
                        where c.queue = queue_names[place] and not c.paused
                          and c.try_at is not null
                        order by c.try_at
                        limit count_limit
                    ) s;
            end if;
            if sees_schedules and bands is not null then
                select jsonb_agg(b.band || jsonb_build_object('due_soon', (
                        select (b.band ->> 'due_soon')::bigint + count(*)
                        from (
                            select meshhook.priority_of(c.headers) as band, c.try_at
                            from meshhook.schedules c
                            where c.queue = queue_names[place] and not c.paused
                              and c.try_at is not null
                            order by c.try_at
                            limit count_limit
                        ) s
                        where s.band = b.number - 1
                          and s.try_at <= now() + make_interval(secs => lookahead_seconds[place])
                    )) order by b.number)
                    into bands
                    from jsonb_array_elements(bands) with ordinality as b (band, number);
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
