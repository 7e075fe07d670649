-- Deleting jobs waits for no unique key, dead letter or request to cancel that another transaction
-- has locked.
-- Locks: none that others hold. Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

-- Deletes jobs that do not run with everything about them: the message, a dead letter, the history.
-- For each job `result` is deleted, unchanged or not_found; and `was` its state or outcome.
-- A job whose message another transaction has locked counts as running; one whose dead letter is
-- locked is left alone. It waits for transactions that delete the same history, and for those in
-- which a job of the same group has ended.
-- Locks: the deleted rows, skipping locked messages, dead letters, unique keys and requests; the
-- groups, as meshhook.count_ended_jobs. Indexes: the primary key of the queue's table,
-- q_<queue>_dlq_origin_idx, job_attempts_job_idx, the primary keys.
create or replace function meshhook.delete_jobs(
    queue text, msg_ids bigint[], state text default null)
returns table (msg_id bigint, result text, was text)
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform meshhook.check_queue(queue);
    return query execute format($query$
        with wanted as materialized (
            select distinct u.msg_id from unnest($2) as u (msg_id)
        ), seen as materialized (
            select q.msg_id from wanted w, pgmq.%1$I q where q.msg_id = any (array[w.msg_id])
        ), locked as materialized (
            select q.msg_id, meshhook.message_state_now(q.vt, q.read_ct, q.headers) as state
            from wanted w, pgmq.%1$I q
            where q.msg_id = any (array[w.msg_id])
            for update of q skip locked
        ), dead as materialized (
            select w.msg_id, d.msg_id as letter_id from wanted w, pgmq.%2$I d
            where left(d.headers #>> '{meshhook-dead-letter,msg_id}', 20) = w.msg_id::text
              and coalesce(d.headers #>> '{meshhook-dead-letter,queue}', $1) = $1
        ), locked_dead as materialized (
            select d.msg_id as letter_id from dead e, pgmq.%2$I d
            where d.msg_id = any (array[e.letter_id])
            for update of d skip locked
        ), busy as materialized (
            -- Such as a dead letter that is being replayed.
            select e.msg_id from dead e
            where (e.letter_id in (select d.letter_id from locked_dead d)) is not true
        ), removed as (
            delete from pgmq.%1$I q using locked l
            where q.msg_id = any (array[l.msg_id]) and l.state <> 'running'
              and ($3 is null or l.state = $3)
              and (l.msg_id in (select b.msg_id from busy b)) is not true
            returning q.msg_id, q.enqueued_at, l.state,
                case when pg_column_size(q.headers) <= 80000
                    then meshhook.unique_key_of(q.headers) end as unique_key,
                case when pg_column_size(q.headers) <= 80000
                    then q.headers ->> 'meshhook-group' end as group_id
        ), counted as materialized (
            select meshhook.count_ended_jobs($1, array_agg(r.group_id), array_agg(r.msg_id),
                array_agg('cancelled'::text))
            from removed r
            where r.group_id is not null
            having count(*) > 0
        ), unlocked_keys as materialized (
            -- One that a sender has locked holds nothing once its message is gone.
            select u.key from removed r, meshhook.unique_keys u
            where u.queue = $1 and u.key = any (array[r.unique_key])
              and u.msg_id = any (array[r.msg_id]) and u.enqueued_at = any (array[r.enqueued_at])
            for update of u skip locked
        ), freed as (
            delete from meshhook.unique_keys u using unlocked_keys k
            where u.queue = $1 and u.key = any (array[k.key])
        ), erased as materialized (
            select w.msg_id from wanted w
            where w.msg_id in (select r.msg_id from removed r)
               or ($3 is null and w.msg_id not in (select s.msg_id from seen s)
                   and w.msg_id not in (select b.msg_id from busy b))
        ), buried as (
            delete from pgmq.%2$I d using dead e
            where d.msg_id = any (array[e.letter_id])
              and (e.msg_id in (select x.msg_id from erased x)) is true
            returning e.msg_id
        ), forgotten as (
            delete from meshhook.job_attempts a using erased e
            where a.queue = $1 and a.msg_id = any (array[e.msg_id])
            returning a.msg_id, a.outcome
        ), unlocked_requests as materialized (
            -- One that is being closed is deleted a day later.
            select c.msg_id from erased e, meshhook.cancellations c
            where c.queue = $1 and c.msg_id = any (array[e.msg_id])
            for update of c skip locked
        ), withdrawn as (
            delete from meshhook.cancellations c using unlocked_requests e
            where c.queue = $1 and c.msg_id = any (array[e.msg_id])
        )
        select w.msg_id, case
                when e.msg_id is null and s.msg_id is null and b.msg_id is null
                    and f.outcome is null then 'not_found'
                when e.msg_id is null then 'unchanged'
                when r.msg_id is not null or w.msg_id in (select u.msg_id from buried u)
                    or w.msg_id in (select o.msg_id from forgotten o) then 'deleted'
                else 'not_found' end,
            case when r.msg_id is not null then r.state
                when s.msg_id is not null then coalesce(l.state, 'running')
                when b.msg_id is not null or w.msg_id in (select u.msg_id from buried u)
                    then 'dead_lettered'
                when e.msg_id is null then f.outcome
                else (select o.outcome from forgotten o where o.msg_id = w.msg_id
                      and o.outcome in ('succeeded', 'cancelled', 'archived', 'replayed',
                          'dead_lettered') limit 1) end
        from wanted w
        left join erased e on e.msg_id = w.msg_id
        left join seen s on s.msg_id = w.msg_id
        left join (select distinct b.msg_id from busy b) b on b.msg_id = w.msg_id
        left join locked l on l.msg_id = w.msg_id
        left join removed r on r.msg_id = w.msg_id
        left join lateral meshhook.final_outcome($1, w.msg_id) f
            on e.msg_id is null and s.msg_id is null
        -- Asked for, so that it runs.
        where (select count(*) from counted) >= 0
        order by w.msg_id
        $query$, 'q_' || queue, 'q_' || queue || '_dlq')
        using queue, msg_ids, state;
end
$$;
