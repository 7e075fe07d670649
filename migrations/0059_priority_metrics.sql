-- How long jobs of each priority wait: what the exporter of metrics and `meshhook queue show` read of
-- queues with priorities.
-- Locks: none that others hold. Time at size: milliseconds; no queue is touched.

set local search_path = pg_catalog, pg_temp;

-- The bands of one queue with priorities, urgent first: how many messages are due, counted up to
-- `count_limit` each, how long the oldest of them has been, and the target. The queue must have the
-- index of priorities.
-- Locks: none. Index: q_<queue>_priority_idx.
create function meshhook.priority_waits(
    queue text, targets double precision[], count_limit integer default 10000)
returns table (
    priority text, waiting bigint, oldest_ready_seconds double precision,
    target_seconds double precision)
language plpgsql stable
set search_path = pg_catalog, pg_temp
-- Statistics of a queue are always old: it must read by its index all the same.
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
    return query execute format($query$
        select b.name, w.waiting, coalesce(meshhook.age_seconds(o.vt), 0), ($1)[b.band + 1]
        from (values (0, 'urgent'), (1, 'high'), (2, 'normal'), (3, 'low')) as b (band, name)
        cross join lateral (
            select count(*) as waiting from (
                select from pgmq.%1$I q
                where (meshhook.priority_of(q.headers), q.vt) >= (b.band, '-infinity'::timestamptz)
                  and (meshhook.priority_of(q.headers), q.vt) <= (b.band, now())
                -- In any order: sorting would compute the band of each message anew.
                limit $2) as due) w
        left join lateral (
            select q.vt from pgmq.%1$I q
            where (meshhook.priority_of(q.headers), q.vt) > (b.band, '-infinity'::timestamptz)
              and (meshhook.priority_of(q.headers), q.vt) <= (b.band, now())
            order by meshhook.priority_of(q.headers), q.vt
            limit 1) o on true
        order by b.band
        $query$, 'q_' || queue) using targets, count_limit;
end
$$;

comment on function meshhook.priority_waits(text, double precision[], integer) is
    'How many messages of each priority are due, and for how long, in a queue with priorities.';

-- The bands of every queue with priorities at one moment, four rows for each. A queue that cannot be
-- read has one row, with its reason in `problem` and nothing else, and disturbs no other.
-- Locks: none; waits at most 200 ms for a queue's table. Index: q_<queue>_priority_idx.
create function meshhook.priority_metrics(count_limit integer default 10000)
returns table (
    queue text, problem text, priority text, waiting bigint,
    oldest_ready_seconds double precision, target_seconds double precision)
language plpgsql volatile
set lock_timeout = '200ms' set search_path = pg_catalog, pg_temp as $$
declare
    targets double precision[];
    bands jsonb;
begin
    for queue, targets in
        select c.queue_name, c.priority_target_seconds from meshhook.queue_config c
        where c.prioritized order by c.queue_name
    loop
        problem := null;
        bands := null;
        begin
            bands := (select jsonb_agg(to_jsonb(w))
                from meshhook.priority_waits(queue, targets, count_limit) w);
            -- As in queue_metrics, this gives the locks of the queue's table back at once.
            raise exception using errcode = 'MHQ01';
        exception
            when sqlstate 'MHQ01' then null;
            when query_canceled then raise;
            when others then problem := sqlerrm;
        end;
        if problem is not null then
            priority := null; waiting := null; oldest_ready_seconds := null; target_seconds := null;
            return next;
            continue;
        end if;
        for priority, waiting, oldest_ready_seconds, target_seconds in
            select b.priority, b.waiting, b.oldest_ready_seconds, b.target_seconds
            from jsonb_to_recordset(bands) as b (
                priority text, waiting bigint, oldest_ready_seconds double precision,
                target_seconds double precision)
        loop
            return next;
        end loop;
    end loop;
end
$$;

comment on function meshhook.priority_metrics(integer) is
    'What the exporter reads of queues with priorities: the bands of each.';
