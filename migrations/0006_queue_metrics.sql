-- What the exporter of metrics reads of all queues in one statement.
-- Locks: none that others hold. Time at size: milliseconds.

-- Every queue at one moment: its snapshot, its live workers, and the sizes of its tables. A queue
-- that cannot be read, since somebody holds its table locked or is dropping it, has its reason in
-- `problem` and nothing else, and disturbs no other. Counts stop at `count_limit` as in
-- meshhook.queue_snapshot; sizes and dead rows come from the files and the statistics, and cost the
-- same at any depth.
-- Locks: none; waits at most 200 ms for a queue's table. Index: q_<queue>_vt_idx.
create function meshhook.queue_metrics(count_limit integer default 10000)
returns table (
    queue text, problem text, ready bigint, scheduled bigint, running bigint, retrying bigint,
    lost bigint, capped boolean, oldest_ready_seconds double precision, enqueued_total bigint,
    dead_letters bigint, oldest_dead_letter_seconds double precision, paused boolean,
    workers bigint, worker_slots bigint, queue_bytes bigint, dlq_bytes bigint,
    queue_dead_tuples bigint, dlq_dead_tuples bigint)
language plpgsql stable
set lock_timeout = '200ms' set search_path = pg_catalog, pg_temp as $$
declare
    queue_table regclass;
    dlq_table regclass;
begin
    for queue, paused, workers, worker_slots in
        select c.queue_name, c.paused, coalesce(w.workers, 0), coalesce(w.slots, 0)
        from meshhook.queue_config c
        left join (
            select l.queue, count(*) as workers, sum(l.concurrency) as slots
            from meshhook.workers l where l.seen_at > now() - interval '30 seconds'
            group by l.queue
        ) w on w.queue = c.queue_name
        order by c.queue_name
    loop
        problem := null;
        begin
            queue_table := to_regclass(format('pgmq.%I', 'q_' || queue));
            dlq_table := to_regclass(format('pgmq.%I', 'q_' || queue || '_dlq'));
            select s.ready, s.scheduled, s.running, s.retrying, s.lost,
                   s.capped or s.dead_letters_capped, s.oldest_ready_seconds, s.enqueued_total,
                   s.dead_letters, s.oldest_dead_letter_seconds
                into strict ready, scheduled, running, retrying, lost,
                   capped, oldest_ready_seconds, enqueued_total,
                   dead_letters, oldest_dead_letter_seconds
                from meshhook.queue_snapshot(queue, count_limit) s;
            queue_bytes := pg_total_relation_size(queue_table);
            dlq_bytes := pg_total_relation_size(dlq_table);
            queue_dead_tuples := pg_stat_get_dead_tuples(queue_table);
            dlq_dead_tuples := pg_stat_get_dead_tuples(dlq_table);
            -- Rolling back gives the locks of this queue's tables back at once. Hundreds of queues
            -- would else fill the server's lock table; variables keep their values.
            raise exception using errcode = 'MHQ01';
        exception
            when sqlstate 'MHQ01' then null;
            when no_data_found then problem := 'the queue has no table, or no dead letter table';
            when query_canceled then raise;
            when others then problem := sqlerrm;
        end;
        return next;
    end loop;
end
$$;

-- The size of the history, all partitions together; null if somebody holds it locked.
-- Locks: none; waits at most 200 ms.
create function meshhook.history_bytes() returns bigint
language plpgsql stable
set lock_timeout = '200ms' set search_path = pg_catalog, pg_temp as $$
begin
    return (select sum(pg_total_relation_size(t.relid))
            from pg_partition_tree('meshhook.job_attempts') t);
exception when lock_not_available then
    return null;
end
$$;
