-- A replay of a finished job takes its unique key again; where another job has it, the job is left
-- alone. And a budget for retries begins anew when it is changed, or its queue is dropped.
-- Locks: SHARE ROW EXCLUSIVE on meshhook.queue_config for the triggers. Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

-- Fails what a quicker sender has spoilt: the caller tries again, and then sees the other job.
create function meshhook.refuse_lost_keys(wanted bigint, taken bigint) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    if wanted <> taken then
        raise exception using errcode = '40001',
            message = 'another job took a unique key at the same moment; try again';
    end if;
    return true;
end
$$;

-- Enqueues jobs again that have succeeded or were cancelled and whose bodies are kept: the newest
-- with each id, or the one enqueued at a given time. Each is replayed once, however often this is
-- called and by whom, unless `again` says otherwise. The new job has the same body and headers,
-- less what belongs to the first: its group, its attempts and a deadline at a time. It takes the
-- unique key of the first. `key`, if any, leaves out kept jobs of other keys, and all that are not
-- kept.
-- For each job `result` is replayed, unchanged, not_kept or not_found; `was` its state or how it
-- ended, `replayed` if it was replayed before, or `key_taken` if another job has its unique key;
-- `at` when that was; and `replayed_as` the msg_id of the new job. With `dry_run`, nothing is
-- changed, and there is no new msg_id.
-- Waits for an open transaction that has taken one of the unique keys.
-- Locks: the finished jobs, skipping locked ones, which are left alone; the unique keys, in their
-- order. Indexes: finished_jobs_job_idx, job_attempts_job_idx, the primary keys.
create or replace function meshhook.replay_jobs(
    queue text, msg_ids bigint[], enqueued_ats timestamptz[] default null, key text default null,
    again boolean default false, delay interval default null, dry_run boolean default false)
returns table (msg_id bigint, result text, was text, at timestamptz, replayed_as bigint)
language plpgsql set search_path = pg_catalog, pg_temp
-- A table that was filled since it was analyzed would be read from end to end, for each job.
set enable_seqscan = off set enable_bitmapscan = off set enable_material = off
set jit = off as $$
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
            select l.* from kept k
            cross join lateral (
                select f.msg_id, f.enqueued_at, f.finished_at, f.message, f.headers, f.replayed_as
                from meshhook.finished_jobs f
                where f.queue = $1 and f.msg_id = any (array[k.msg_id])
                  and f.enqueued_at is not distinct from k.enqueued_at
                  and f.finished_at = any (array[k.finished_at])
                for update skip locked
            ) l
            where $4 is null or k.key = $4
        ), wished as materialized (
            select l.msg_id, l.enqueued_at, k.key as unique_key,
                coalesce(l.headers #>> '{meshhook-unique,until}' = 'started', false)
                    as until_started,
                case when jsonb_typeof(l.headers #> '{meshhook-unique,seconds}') = 'number'
                    then least(greatest((l.headers #>> '{meshhook-unique,seconds}')::float8, 0),
                        31622400) end as seconds,
                row_number() over (partition by k.key order by l.msg_id, l.enqueued_at) as rank
            from locked l
            cross join lateral (select meshhook.unique_key_of(l.headers) as key) k
            where (l.replayed_as is null or $5) and length(k.key) between 1 and 200
        ), judged as materialized (
            select w.*, u.msg_id as old_msg_id, u.enqueued_at as old_enqueued_at,
                w.rank > 1 or coalesce(case
                    when u.expires_at is not null then u.expires_at > clock_timestamp()
                    else q.read_ct is not null and (not u.until_started or q.read_ct = 0)
                    end, false) as is_taken
            from wished w
            left join lateral (
                select u.* from meshhook.unique_keys u
                where u.queue = $1 and u.key = any (array[w.unique_key])
                limit 1
            ) u on true
            left join lateral (
                select q.read_ct from pgmq.%1$I q
                where q.msg_id = any (array[u.msg_id]) and q.enqueued_at = u.enqueued_at
                limit 1
            ) q on true
        ), sent as (
            insert into pgmq.%1$I as q_table (enqueued_at, vt, message, headers)
            select m.at, m.at + $6, l.message,
                meshhook.headers_object(l.headers) - array['meshhook-settled', 'meshhook-claim',
                    'meshhook-group', 'meshhook-dead-letter', 'meshhook-expires-at']
                || jsonb_build_object('meshhook-replayed-from', jsonb_build_object(
                    'queue', $1, 'msg_id', l.msg_id, 'enqueued_at', l.enqueued_at,
                    'replays', 1 + case
                        when l.headers #>> '{meshhook-replayed-from,replays}' ~ '^[0-9]{1,9}$'
                        then (l.headers #>> '{meshhook-replayed-from,replays}')::int else 0 end))
            from locked l cross join moment m
            where (l.replayed_as is null or $5) and not $8
              and not exists (select from judged j where j.is_taken and j.msg_id = l.msg_id
                and j.enqueued_at is not distinct from l.enqueued_at)
            order by l.msg_id, l.enqueued_at
            returning q_table.msg_id as new_id, q_table.enqueued_at as sent_at,
                (q_table.headers #>> '{meshhook-replayed-from,msg_id}')::bigint as msg_id,
                (q_table.headers #>> '{meshhook-replayed-from,enqueued_at}')::timestamptz
                    as enqueued_at
        ), taken as (
            insert into meshhook.unique_keys as u
                (queue, key, msg_id, enqueued_at, until_started, expires_at)
            select $1, j.unique_key, s.new_id, s.sent_at, j.until_started,
                clock_timestamp() + make_interval(secs => j.seconds)
            from sent s
            join judged j on j.msg_id = s.msg_id
                and j.enqueued_at is not distinct from s.enqueued_at
            order by j.unique_key collate "C"
            on conflict on constraint unique_keys_pkey do update
                set msg_id = excluded.msg_id, enqueued_at = excluded.enqueued_at,
                    until_started = excluded.until_started, expires_at = excluded.expires_at
                where (u.key, u.msg_id, u.enqueued_at) in (
                    select j.unique_key, j.old_msg_id, j.old_enqueued_at from judged j)
            returning u.msg_id
        ), marked as (
            update meshhook.finished_jobs f set replayed_as = s.new_id, replayed_at = s.sent_at
            from sent s
            join locked l on l.msg_id = s.msg_id
                and l.enqueued_at is not distinct from s.enqueued_at
            where f.queue = $1 and f.msg_id = any (array[s.msg_id])
              and f.enqueued_at is not distinct from s.enqueued_at
              and f.finished_at = any (array[l.finished_at])
        ), written as materialized (
            select meshhook.audit('jobs.replayed', $1,
                jsonb_build_object('msg_ids', $2[1:100], 'key', $4), count(*))
            from sent
        )
        select w.msg_id, case
                when s.new_id is not null
                    or ($8 and l.msg_id is not null and (l.replayed_as is null or $5)
                        and j.is_taken is not true)
                    then 'replayed'
                when k.msg_id is not null or q.state is not null
                    or f.outcome in ('dead_lettered', 'replayed') then 'unchanged'
                when f.outcome is not null then 'not_kept'
                else 'not_found' end,
            case when k.msg_id is null then coalesce(q.state, f.outcome)
                when s.new_id is null and j.is_taken then 'key_taken'
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
        left join judged j on j.msg_id = l.msg_id
            and j.enqueued_at is not distinct from l.enqueued_at
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
          and (select meshhook.refuse_lost_keys(
                (select count(*) from sent s join judged j on j.msg_id = s.msg_id
                    and j.enqueued_at is not distinct from s.enqueued_at),
                (select count(*) from taken)))
        order by w.msg_id
        $query$, 'q_' || queue)
        using queue, msg_ids, enqueued_ats, left(key, 200), again, coalesce(delay, interval '0'),
            key_names, dry_run;
end
$$;

-- Lets a budget for retries begin anew: what was put off at the former rate would else keep back
-- each retry to come, for days perhaps. Of a queue that is dropped, nothing is left.
create function meshhook.begin_budget_anew() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    delete from meshhook.starts s
    where s.queue = old.queue_name and s.is_of_queue and s.key = 'retries';
    return null;
end
$$;

create trigger begin_budget_anew after update of max_retries_per_second on meshhook.queue_config
    for each row when (old.max_retries_per_second is distinct from new.max_retries_per_second)
    execute function meshhook.begin_budget_anew();
create trigger end_budget after delete on meshhook.queue_config
    for each row execute function meshhook.begin_budget_anew();

revoke execute on function meshhook.begin_budget_anew() from public;
