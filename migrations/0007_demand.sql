-- What the operator reads of all its queues in one statement a tick.
-- Locks: none that others hold. Time at size: milliseconds.

-- The demand of each queue named, one row each in the order given, whatever state it is in: a queue
-- that cannot be read has its reason in `problem` and disturbs no other.
-- Before it reads a queue named in `waiting`, it says that somebody waits for its messages, for the
-- next `waiting_seconds`; what is sent from then on notifies. Counts stop at `count_limit` for the
-- messages that are ready and at as many for those that are not.
-- Locks: none; waits at most 200 ms for a queue's table. Index: q_<queue>_vt_idx.
create function meshhook.queue_demand(
    queue_names text[], lookahead_seconds double precision[], waiting text[],
    waiting_seconds double precision, count_limit integer default 10000)
returns table (
    queue_name text, problem text, problem_state text, config jsonb,
    sampled_at double precision, ready bigint, ready_is_capped boolean, lost bigint,
    running bigint, scheduled bigint, retrying bigint, hidden_is_capped boolean,
    due_soon bigint, next_due_seconds double precision, oldest_ready_seconds double precision,
    enqueued_total bigint, dead_letters bigint, workers jsonb)
language plpgsql volatile
set lock_timeout = '200ms' set search_path = pg_catalog, pg_temp as $$
declare
    queue_table text;
    waiting_until bigint := (extract(epoch from clock_timestamp()) + waiting_seconds) * 1000;
    place integer;
begin
    for place in 1 .. coalesce(array_length(queue_names, 1), 0) loop
        queue_name := queue_names[place];
        problem := null;
        problem_state := null;
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
                    'busy_seconds', w.busy_seconds, 'draining', w.draining,
                    'seen_at', extract(epoch from w.seen_at)))
                into workers
                from meshhook.workers w
                where w.queue = queue_names[place] and w.seen_at > now() - interval '30 seconds';
            -- One statement, so that all the numbers are of one moment.
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
                       coalesce(pg_sequence_last_value(
                           pg_get_serial_sequence(%3$L, 'msg_id')::regclass), 0),
                       (select count(*) from (select from pgmq.%2$I limit $1) d)
                from visible_count v, hidden_count h
                $query$, queue_table, queue_table || '_dlq', format('pgmq.%I', queue_table))
                into sampled_at, ready, ready_is_capped, lost, running, scheduled, retrying,
                     hidden_is_capped, due_soon, next_due_seconds, oldest_ready_seconds,
                     enqueued_total, dead_letters
                using count_limit, lookahead_seconds[place];
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

-- Drops a queue if it holds neither messages nor dead letters. Returns whether it is gone; a queue
-- that was not there counts as gone.
-- Locks: ACCESS EXCLUSIVE on its tables, for the look and the drop.
create function meshhook.drop_queue_if_empty(queue_name text) returns boolean
language plpgsql as $$
declare
    name text;
    holds_any boolean;
begin
    perform meshhook.check_queue_name(queue_name);
    perform pg_advisory_xact_lock(hashtext('meshhook.queue.' || queue_name));
    -- Reads the catalog afresh: what another made while this waited is not in the cache yet.
    perform from pg_catalog.pg_class limit 0;
    foreach name in array array['q_' || queue_name, 'q_' || queue_name || '_dlq'] loop
        continue when to_regclass(format('pgmq.%I', name)) is null;
        execute format('lock table pgmq.%I in access exclusive mode', name);
        execute format('select exists (select from pgmq.%I)', name) into holds_any;
        if holds_any then
            return false;
        end if;
    end loop;
    perform meshhook.drop_queue(queue_name);
    return true;
end
$$;
