-- How long keys wait in queues with ordered keys: a key whose first message waits for its next attempt
-- is not late.
-- Locks: none. Time at size: milliseconds; no queue is touched.

set local search_path = pg_catalog, pg_temp;

-- The keys of one queue, from its row of queue_config: it looks at the first `max_keys` keys that have
-- messages, in the order of their bytes, and at as many that are held. The longest-waiting key is the
-- one with the oldest message that is due among those of which no job runs although neither a hold, a
-- breaker nor a limit is in the way; its age is 0 while there is none. A queue that is full has none. An
-- ordered key waits for as long as its first message has been due: the others wait for that.
-- Locks: none. Indexes: q_<queue>_key_idx, q_<queue>_running_idx, q_<queue>_order_idx, keys_pkey,
-- keys_hold_idx, starts_pkey, breakers_pkey, breakers_open_idx.
create or replace function meshhook.key_waits(queue text, config jsonb, max_keys integer)
returns table (
    keys bigint, held bigint, open_breakers bigint, oldest_open_breaker_seconds double precision,
    longest_wait_seconds double precision, oldest_held_seconds double precision)
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
        ), waiting as (
            select w.key, coalesce(f.vt, w.vt) as vt from walked w left join lateral (
                select q.vt from pgmq.%1$I q where $7 and %2$s = w.key
                order by %2$s, meshhook.place_in_order(q.msg_id, q.headers), q.msg_id limit 1) f
                on true
            where w.vt <= now() and coalesce(f.vt, w.vt) <= now() and isfinite(coalesce(f.vt, w.vt))
                and (select m.may from may_start m)
                and not exists (
                    select from pgmq.%1$I q where %3$s = w.key and q.vt > now())
                and not exists (
                    select from meshhook.breakers b
                    where b.queue = $1 and b.key = w.key and b.probe_at > now())
                and not exists (
                    select from meshhook.keys k
                    where k.queue = $1 and k.key = w.key and k.held_until > now())
                and coalesce(meshhook.free_starts(coalesce((
                        select k.max_starts from meshhook.keys k
                        where k.queue = $1 and k.key = w.key), $5), $6, (
                    select t.full_at from meshhook.starts t
                    where t.queue = $1 and not t.is_of_queue and t.key = w.key)) >= 1, true)
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
                    order by %2$s, q.vt limit 1) first), 0)::double precision
        $query$, 'q_' || queue, format('((%s) collate "C")', key),
        format('((case when meshhook.has_open_attempt(q.read_ct, q.headers) then %s end) '
            'collate "C")', key))
        using queue, max_keys, (config ->> 'max_running')::integer,
            (config ->> 'max_starts')::integer, (config ->> 'max_starts_per_key')::integer,
            (config ->> 'starts_period_seconds')::double precision, (config ->> 'ordered')::boolean;
end
$$;
