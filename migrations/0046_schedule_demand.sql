-- The demand of a queue includes its schedules, so that a queue without workers is woken before a
-- due time. Locks: SHARE on meshhook.schedules while an index of its few rows is built.
-- Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

create index schedules_of_queue_idx on meshhook.schedules (queue, try_at) where not paused;

-- The demand of each queue named, one row each in the order given, whatever state it is in: a queue
-- that cannot be read has its reason in `problem` and disturbs no other.
-- Before it reads a queue named in `waiting`, it says that somebody waits for its messages, for the
-- next `waiting_seconds`; what is sent from then on notifies. Counts stop at `count_limit` for the
-- messages that are ready and at as many for those that are not. Ready are those that may start now:
-- what a hold, the limit of a key or that of the queue keeps back is counted apart, to as many each.
-- Where the keys are in bodies that the role may not read, only the limit of the queue is known.
-- Schedules that workers have to look at soon count as messages that fall due: workers fire them.
-- Locks: none; waits at most 200 ms for a queue's table. Index: q_<queue>_vt_idx and
-- schedules_of_queue_idx; of a queue with limits, those of limited_demand.
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
    sees_schedules boolean := has_table_privilege('meshhook.schedules', 'select');
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
            if sees_schedules then
                select due_soon + count(*) filter (where s.try_at
                        <= now() + make_interval(secs => lookahead_seconds[place])),
                    least(next_due_seconds, extract(epoch from min(greatest(s.try_at, now())) - now()))
                    into due_soon, next_due_seconds
                    from (
                        select c.try_at from meshhook.schedules c
                        where c.queue = queue_names[place] and not c.paused
                          and c.try_at is not null
                        order by c.try_at
                        limit count_limit
                    ) s;
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
