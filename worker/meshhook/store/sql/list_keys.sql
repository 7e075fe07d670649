-- The keys of a keyed queue, or key $4 of it alone, those with most ready jobs first, or if $7 by
-- name: what waits and runs of each, counted up to $2, and what is set for it. It looks at the
-- first $1 keys from $5 on that begin with $6 and have messages, as many that something is set
-- for, and as many that have failed. $3 is the queue.
-- Of an ordered queue it says which job keeps the others of the key waiting.
-- Locks: none. Indexes: q_<queue>_key_idx, q_<queue>_running_idx, q_<queue>_order_idx, keys_pkey,
-- breakers_pkey.
with recursive walked (key, number) as (
    select f.key, 1 from (
        select {key} as key from {queue_table} q
        where $4::text is null and {key} >= $5::text order by {key} limit 1) f
    where pg_catalog.starts_with(f.key, $6::text)
    union all
    select n.key, w.number + 1 from walked w cross join lateral (
        select {key} as key from {queue_table} q where {key} > w.key order by {key} limit 1) n
    where w.number < $1::int and pg_catalog.starts_with(n.key, $6::text)
), named as (
    select w.key from walked w
    union
    select f.key from (
        select k.key from meshhook.keys k
        where k.queue = $3::text and $4::text is null and k.key >= $5::text
        order by k.key limit $1::int) f
    where pg_catalog.starts_with(f.key, $6::text)
    union
    select f.key from (
        select b.key from meshhook.breakers b
        where b.queue = $3::text and b.failures > 0 and $4::text is null and b.key >= $5::text
        order by b.key limit $1::int) f
    where pg_catalog.starts_with(f.key, $6::text)
    union
    select $4::text collate pg_catalog."C" where $4::text is not null
), counted as (
    select n.key, (
        select pg_catalog.count(*) from (
            select from {queue_table} q
            where ({key}, q.vt) >= (n.key, '-infinity'::timestamptz)
                and ({key}, q.vt) <= (n.key, pg_catalog.now())
            limit $2::int) r) as ready, (
        select pg_catalog.count(*) filter (where r.vt > pg_catalog.now()) from (
            select q.vt from {queue_table} q where {running_key} = n.key limit $2::int) r
        ) as running, (
        select pg_catalog.count(*) from (
            select from {queue_table} q
            where ({key}, q.vt) > (n.key, pg_catalog.now())
                and ({key}, q.vt) <= (n.key, 'infinity'::timestamptz)
            limit $2::int) r) as later, (
        select q.vt from {queue_table} q
        where ({key}, q.vt) >= (n.key, '-infinity'::timestamptz)
            and ({key}, q.vt) <= (n.key, pg_catalog.now())
        order by {key}, q.vt limit 1) as oldest_vt
    from named n
)
select coalesce({utf8 c.key}, '?') as key, c.ready, c.running,
    greatest(c.later - c.running, 0) as waiting_for_later,
    greatest(c.ready, c.later) >= $2::int as capped,
    coalesce(meshhook.age_seconds(c.oldest_vt), 0::float8) as oldest_ready_seconds,
    coalesce(k.weight, 1::float8) as weight,
    least(coalesce(k.max_running, s.max_running_per_key), case when s.ordered then 1 end)
        as max_running,
    coalesce(k.max_starts, s.max_starts_per_key) as max_starts,
    k.weight is not null or k.max_running is not null or k.max_starts is not null
        as has_own_settings,
    case when k.held_until > pg_catalog.now() then {moment k.held_until} end as held_until,
    case when k.held_until > pg_catalog.now() then {moment k.held_at} end as held_at,
    case when k.held_until > pg_catalog.now() then k.held_by end as held_by,
    case when k.held_until > pg_catalog.now() then {utf8 k.hold_reason} end as hold_reason,
    case when s.breaker_failures is null then null
        when b.opened_at is null then 'closed'
        when b.probe_at > pg_catalog.now() then 'open' else 'half-open' end as breaker,
    coalesce(b.failures, 0) as failures_in_a_row, {utf8 b.error_type} as last_error_type,
    {moment b.opened_at} as breaker_opened_at, {moment b.probe_at} as next_probe_at,
    coalesce(k.held_by_job, f.msg_id) as blocked_by,
    case when k.held_by_dead_letter is not null then 'dead_lettered'
        when f.read_ct > 0 then 'retrying' when f.read_ct = 0 then 'scheduled' end
        as blocked_reason,
    case when k.held_by_dead_letter is not null then {moment k.held_at}
        else {moment f.since} end as blocked_since,
    case when k.held_by_dead_letter is null then {moment f.vt} end as blocked_until,
    k.held_by_dead_letter as dead_letter_id
from counted c cross join meshhook.queue_config s
left join meshhook.keys k on k.queue = $3::text and k.key = c.key
left join meshhook.breakers b on b.queue = $3::text and b.key = c.key
    and s.breaker_failures is not null
left join lateral (
    select h.msg_id, h.read_ct, h.vt, coalesce(
        meshhook.last_outcome_at($3::text, h.msg_id, h.enqueued_at),
        case when h.read_ct = 0 then h.enqueued_at end) as since
    from (
        select q.msg_id, q.read_ct, q.vt, q.enqueued_at, q.headers from {queue_table} q
        where s.ordered and {key} = c.key order by {key}, {place}, q.msg_id limit 1) h
    where h.vt > pg_catalog.now() and not meshhook.has_open_attempt(h.read_ct, h.headers)
) f on true
where s.queue = $3::text
order by case when $7::boolean then c.key end, c.ready desc, c.running desc, c.key
limit $1::int
