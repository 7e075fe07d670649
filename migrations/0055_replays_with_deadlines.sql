-- A replayed job does not expire by the deadline of the first, which has passed; one that counts from
-- its enqueueing counts anew.
-- Locks: none. Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

-- Enqueues jobs again that have succeeded or were cancelled and whose bodies are kept: the newest with
-- each id, or the one enqueued at a given time. Each is replayed once, however often this is called
-- and by whom, unless `again` says otherwise. The new job has the same body and headers, less what
-- belongs to the first: its group, its unique key, its attempts and a deadline at a time. `key`, if
-- any, leaves out kept jobs of other keys, and all that are not kept.
-- For each job `result` is replayed, unchanged, not_kept or not_found; `was` its state or how it
-- ended, or `replayed` if it was replayed before; `at` when that was; and `replayed_as` the msg_id of
-- the new job. With `dry_run`, nothing is changed, and there is no new msg_id.
-- Locks: the finished jobs, skipping locked ones, which are left alone. Indexes:
-- finished_jobs_job_idx, job_attempts_job_idx, the primary key of the queue's table.
create or replace function meshhook.replay_jobs(
    queue text, msg_ids bigint[], enqueued_ats timestamptz[] default null, key text default null,
    again boolean default false, delay interval default null, dry_run boolean default false)
returns table (msg_id bigint, result text, was text, at timestamptz, replayed_as bigint)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    key_names text[];
begin
    perform meshhook.check_queue(queue);
    if delay not between interval '0' and interval '366 days' then
        raise exception using errcode = 'MHQ08',
            message = format('delay is 0 to 366 days, got %s', delay);
    end if;
    select string_to_array(case when c.keyed then c.key_path end, '.') into key_names
        from meshhook.queue_config c where c.queue = replay_jobs.queue;
    return query execute format($query$
        with moment as materialized (
            select clock_timestamp() as at
        ), wanted as materialized (
            select distinct u.msg_id, u.enqueued_at from unnest($2, $3) as u (msg_id, enqueued_at)
            where u.msg_id is not null
        ), kept as materialized (
            select w.msg_id, w.enqueued_at as asked_at, k.enqueued_at, k.finished_at, k.outcome,
                k.replayed_as, k.replayed_at, k.key
            from wanted w
            cross join lateral (
                select f.enqueued_at, f.finished_at, f.outcome, f.replayed_as, f.replayed_at,
                    meshhook.key_text(case when $7 is null then f.headers ->> 'x-pgmq-group'
                        else f.message #>> $7 end) as key
                from meshhook.finished_jobs f
                where f.queue = $1 and f.msg_id = any (array[w.msg_id])
                  and (w.enqueued_at is null or f.enqueued_at = w.enqueued_at)
                order by f.enqueued_at desc nulls last, f.finished_at desc limit 1
            ) k
        ), locked as materialized (
            -- What was replayed since the snapshot is seen in the row that is locked.
            select f.msg_id, f.enqueued_at, f.finished_at, f.message, f.headers, f.replayed_as
            from kept k, meshhook.finished_jobs f
            where f.queue = $1 and f.msg_id = any (array[k.msg_id])
              and f.enqueued_at is not distinct from k.enqueued_at
              and f.finished_at = k.finished_at
              and ($4 is null or k.key = $4)
            for update of f skip locked
        ), sent as (
            insert into pgmq.%1$I as q_table (enqueued_at, vt, message, headers)
            select m.at, m.at + $6, l.message,
                meshhook.headers_object(l.headers) - array['meshhook-settled', 'meshhook-claim',
                    'meshhook-group', 'meshhook-unique', 'meshhook-dead-letter',
                    'meshhook-expires-at']
                || jsonb_build_object('meshhook-replayed-from', jsonb_build_object(
                    'queue', $1, 'msg_id', l.msg_id, 'enqueued_at', l.enqueued_at,
                    'replays', 1 + case
                        when l.headers #>> '{meshhook-replayed-from,replays}' ~ '^[0-9]{1,9}$'
                        then (l.headers #>> '{meshhook-replayed-from,replays}')::int else 0 end))
            from locked l cross join moment m
            where (l.replayed_as is null or $5) and not $8
            order by l.msg_id, l.enqueued_at
            returning q_table.msg_id as new_id, q_table.enqueued_at as sent_at,
                (q_table.headers #>> '{meshhook-replayed-from,msg_id}')::bigint as msg_id,
                (q_table.headers #>> '{meshhook-replayed-from,enqueued_at}')::timestamptz as enqueued_at
        ), marked as (
            update meshhook.finished_jobs f set replayed_as = s.new_id, replayed_at = s.sent_at
            from sent s
            where f.queue = $1 and f.msg_id = any (array[s.msg_id])
              and f.enqueued_at is not distinct from s.enqueued_at
        ), written as materialized (
            select meshhook.audit('jobs.replayed', $1,
                jsonb_build_object('msg_ids', $2[1:100], 'key', $4), count(*))
            from sent
        )
        select w.msg_id, case
                when s.new_id is not null
                    or ($8 and l.msg_id is not null and (l.replayed_as is null or $5))
                    then 'replayed'
                when k.msg_id is not null or q.state is not null
                    or f.outcome in ('dead_lettered', 'replayed') then 'unchanged'
                when f.outcome is not null then 'not_kept'
                else 'not_found' end,
            case when k.msg_id is null then coalesce(q.state, f.outcome)
                when s.new_id is null and coalesce(l.replayed_as, k.replayed_as) is not null
                    and not $5 then 'replayed'
                else k.outcome end,
            case when k.msg_id is null then case when q.state is null then f.finished_at end
                when s.new_id is null and coalesce(l.replayed_as, k.replayed_as) is not null
                    and not $5 then k.replayed_at
                else k.finished_at end,
            coalesce(s.new_id, l.replayed_as, k.replayed_as)
        from wanted w
        left join kept k on k.msg_id = w.msg_id
            and k.asked_at is not distinct from w.enqueued_at
        left join locked l on l.msg_id = k.msg_id and l.finished_at = k.finished_at
            and l.enqueued_at is not distinct from k.enqueued_at
        left join sent s on s.msg_id = k.msg_id
            and s.enqueued_at is not distinct from k.enqueued_at
        left join lateral (
            select meshhook.message_state_now(q.vt, q.read_ct, q.headers) as state
            from pgmq.%1$I q
            where k.msg_id is null and q.msg_id = any (array[w.msg_id])
              and (w.enqueued_at is null or q.enqueued_at = w.enqueued_at)
        ) q on true
        left join lateral meshhook.final_outcome($1, w.msg_id) f
            on k.msg_id is null and q.state is null
        where ($4 is null or k.key = $4)
          -- Asked for, so that it is written.
          and (select count(*) from written) >= 0
        order by w.msg_id
        $query$, 'q_' || queue)
        using queue, msg_ids, enqueued_ats, left(key, 200), again, coalesce(delay, interval '0'),
            key_names, dry_run;
end
$$;
