-- Leases up to $3 ready messages of a queue whose messages have keys, in fair shares: first the
-- oldest of the keys of which the fewest run for their weight, of each as many as even out what
-- runs; then, if that is not enough and there are no limits, the oldest of all. It looks at 16 to
-- 256 keys, from $7 on (null: from one of the oldest messages'). $8 is the path of the key in the
-- body, null for the header: if the queue has another by now, or none, only the oldest are leased.
-- Where there are limits, nothing is leased unless $9: then meshhook.claim_in_turn runs it. Of each
-- key of an ordered queue, only the first message is leased, and only if nothing of it runs.
-- The rest is as in sql/claim.sql. A message has its key in next_key, and in oldest_due the key's
-- weight: meshhook.claim_in_turn, which older workers call, too, returns no other columns. The
-- last row is no message: it has the smallest `vt` of all that was ready, and in next_key where to
-- go on; null means that it has looked at all.
-- $10, if there is one, is a time before the first message that is not due, or any earlier one if
-- it is not known. What runs is counted from there on, and not from now on: in between there are
-- only entries of settled messages. The last row has the time of that first message in `ready`.
-- Locks: the rows it looks at, skipping locked ones. Indexes: q_<queue>_key_idx for the keys and
-- their messages, q_<queue>_running_idx for what runs of each, q_<queue>_vt_idx for the rest,
-- q_<queue>_order_idx for the first of each key, keys_limit_idx, keys_hold_idx, keys_rate_idx and
-- breakers_open_idx for whether there are limits, keys_pkey, starts_pkey and breakers_pkey for what
-- they are.
with recursive bounds as materialized (
    select coalesce($2::timestamptz, '-infinity'::timestamptz) as from_vt,
        least(pg_catalog.now(), $5::timestamptz) as to_vt
), limits as materialized (
    select l.*, l.is_keyed and (l.max_running is not null or l.max_running_per_key is not null
            or l.has_rates or l.has_key_limits or l.has_open_breakers
            or l.ordered) as is_limited,
        -- Large claims follow each other fast, and each need not look at so many; unless the keys
        -- have little room each.
        case when $3::int <= 64 or ($9::boolean and (l.ordered or l.has_key_limits
                or l.has_open_breakers or l.max_running_per_key < $3::int
                or l.max_starts_per_key < $3::int)) then 256
            else least(greatest($3::int / 8, 16), 64) end as most_keys,
        least($3::int, case when l.is_keyed then l.max_running - (
            select pg_catalog.count(*) filter (where q.vt > pg_catalog.now())
            from {queue_table} q where l.max_running is not null and {running_key} >= '')::int end,
            case when l.is_keyed then meshhook.free_starts(
                l.max_starts, l.starts_period_seconds, (select s.full_at from meshhook.starts s
                    where s.queue = $6::text and s.is_of_queue and s.key = '')) end::int) as room
    from (
        select c.keyed and c.key_path is not distinct from $8::text as is_keyed,
            c.ordered, c.max_running, c.max_running_per_key, c.max_starts, c.max_starts_per_key,
            c.starts_period_seconds, c.max_starts is not null or c.max_starts_per_key is not null
            or exists (
                select from meshhook.keys k
                where k.queue = $6::text and k.max_starts is not null) as has_rates, exists (
                select from meshhook.keys k
                where k.queue = $6::text and k.max_running is not null)
            or exists (
                select from meshhook.keys k
                where k.queue = $6::text and k.held_until > pg_catalog.now()) as has_key_limits,
            c.breaker_failures is not null and exists (
                select from meshhook.breakers b
                where b.queue = $6::text and b.opened_at is not null) as has_open_breakers
        from meshhook.queue_config c where c.queue = $6::text
    ) l
), oldest as materialized (
    select (select q.vt from {queue_table} q
        where q.vt >= (select b.from_vt from bounds b) and q.vt <= (select b.to_vt from bounds b)
        order by q.vt limit 1) as vt
), later as materialized (
    -- The first message that is not due. Leases that are made from now on end later than $1.
    select coalesce((select q.vt from {queue_table} q
        where q.vt > greatest(pg_catalog.now(), least({later_from},
            pg_catalog.now() + pg_catalog.make_interval(secs => $1::float8)))
        order by q.vt limit 1),
        pg_catalog.now() + pg_catalog.make_interval(secs => $1::float8)) as vt
    from oldest o, limits l
    where {later_from} is not null and o.vt is not null and not l.is_limited
), start as materialized (
    select coalesce($7::text collate pg_catalog."C", (
        select {key} from {queue_table} q
        where q.vt >= (select o.vt from oldest o) and q.vt <= (select b.to_vt from bounds b)
        order by q.vt
        -- So that workers that begin at the same time look at different keys.
        offset (select pg_catalog.floor(pg_catalog.random() * 200::float8)::bigint) limit 1),
        '' collate pg_catalog."C") as key
    where exists (select from oldest o where o.vt is not null) and exists (
        select from limits l where l.is_keyed and (not l.is_limited or $9::boolean) and l.room > 0)
), ahead (key, vt, number) as (
    -- Each step goes to the first entry of the next key, which is its oldest message.
    (select {key}, q.vt, 1 from {queue_table} q
    where {key} >= (select s.key from start s) and q.vt >= (select o.vt from oldest o)
    order by {key}, q.vt limit 1)
    union all
    select n.key, n.vt, a.number + 1 from ahead a cross join lateral (
        select {key} as key, q.vt from {queue_table} q
        where {key} > a.key and q.vt >= (select o.vt from oldest o)
        order by {key}, q.vt limit 1) n
    where a.number <= (select l.most_keys from limits l)
), behind (key, vt, number) as (
    (select {key}, q.vt, (select pg_catalog.count(*)::int + 1 from ahead) from {queue_table} q
    where {key} < (select s.key from start s) and q.vt >= (select o.vt from oldest o)
        and (select pg_catalog.count(*) from ahead) <= (select l.most_keys from limits l)
    order by {key}, q.vt limit 1)
    union all
    select n.key, n.vt, a.number + 1 from behind a cross join lateral (
        select {key} as key, q.vt from {queue_table} q
        where {key} > a.key and {key} < (select s.key from start s)
            and q.vt >= (select o.vt from oldest o)
        order by {key}, q.vt limit 1) n
    where a.number <= (select l.most_keys from limits l)
), due as materialized (
    select k.key, k.vt from (
        select a.key, a.vt, a.number from ahead a
        union all select a.key, a.vt, a.number from behind a) k
    where k.number <= (select l.most_keys from limits l) and k.vt <= (select b.to_vt from bounds b)
), counted as materialized (
    select d.key, d.vt, coalesce(k.weight, 1::float8) as weight, case
        -- Alone it gets all.
        when not l.is_limited and (select pg_catalog.count(*) from due) = 1 then 0::float8
        else (select pg_catalog.count(*)
            from {queue_table} q
            where {running_key} = d.key and q.vt >= coalesce((select s.vt from later s),
                pg_catalog.now() + pg_catalog.make_interval(secs => 0.000001)))::float8
        end as running,
        case when k.held_until > pg_catalog.now() or b.probe_at > pg_catalog.now() then 0::float8
            -- Half-open: what runs of it is its probe, until it has ended.
            when b.probe_at is not null then 1::float8
            else least(coalesce(k.max_running, l.max_running_per_key),
                case when l.ordered then 1 end)::float8 end as max_running,
        -- 0 where it keeps those back that are due, because it is not.
        case when l.ordered then coalesce((select h.msg_id from (
                select q.msg_id, q.vt from {queue_table} q where {key} = d.key
                order by {key}, {place}, q.msg_id limit 1) h
            where h.vt <= (select b.to_vt from bounds b)), 0::bigint) end as head,
        coalesce(k.max_starts, l.max_starts_per_key) as max_starts, case when l.has_rates then (
            select s.full_at from meshhook.starts s
            where s.queue = $6::text and not s.is_of_queue and s.key = d.key) end as full_at
    from due d cross join limits l
    left join meshhook.keys k on k.queue = $6::text and k.key = d.key
    cross join lateral (select case when l.has_open_breakers then (
        select o.probe_at from meshhook.breakers o
        where o.queue = $6::text and o.key = d.key) end as probe_at) b
), weighted as materialized (
    -- Usually none: each job is compared with all of them.
    select c.key, c.weight from counted c where c.weight <> 1::float8
), free as materialized (
    select c.key, c.vt, c.weight, c.running, c.free, c.head from (
        select c.*, least(c.max_running - c.running, meshhook.free_starts(
            c.max_starts, (select l.starts_period_seconds from limits l), c.full_at)) as free
        from counted c) c
    where (c.free is null or c.free >= 1::float8) and c.head is distinct from 0
), levelled as materialized (
    -- The level to which so many more jobs fill the keys up, as water does.
    select c.*, pg_catalog.floor(greatest(
        (select pg_catalog.min(l.level) from (
            select ((select r.room from limits r)::float8 + pg_catalog.sum(k.running) over w)
                / pg_catalog.sum(k.weight) over w as level
            from free k window w as (order by k.running / k.weight, k.vt, k.key)) l)
        * c.weight - c.running + 1e-6::float8, 0::float8)) as share
    from free c
), shared as materialized (
    -- What rounding leaves goes to those who come next.
    select l.key, l.running, l.weight, l.head, least(l.share::bigint + (
        pg_catalog.row_number() over (
            order by (l.running + l.share + 1::float8) / l.weight, l.vt, l.key)
        <= (select r.room from limits r) - (
            select pg_catalog.sum(a.share)::bigint from levelled a))::int,
        l.free::bigint) as share
    from levelled l
), oldest_of_keys as materialized (
    select s.key, t.msg_id, t.vt, t.mark, (s.running + pg_catalog.row_number() over (
        partition by s.key order by t.vt, t.msg_id)::float8) / s.weight as rank
    from shared s cross join lateral (
        select q.msg_id, q.vt, case
            when q.read_ct > 0 and q.read_ct > meshhook.settled_attempts(q.headers)
                -- What is larger is unpacked nowhere here: it is read apart, and never runs.
                and coalesce(pg_catalog.pg_column_size(q.headers), 0) <= 80000
            then meshhook.claim_mark($6::text, q.msg_id, q.enqueued_at, q.read_ct, q.headers,
                (select c.adopted_msg_id from meshhook.queue_config c where c.queue = $6::text))
            end as mark
        from {queue_table} q
        -- Pairs, which no other index has.
        where ({key}, q.vt) >= (s.key, (select o.vt from oldest o))
            and ({key}, q.vt) <= (s.key, (select b.to_vt from bounds b))
        order by {key}, q.vt
        limit s.share
        for update skip locked
    ) t
    where s.share > 0 and s.head is null
), first_of_keys as materialized (
    select s.key, q.msg_id, q.vt, case
        when q.read_ct > 0 and q.read_ct > meshhook.settled_attempts(q.headers)
            and coalesce(pg_catalog.pg_column_size(q.headers), 0) <= 80000
        then meshhook.claim_mark($6::text, q.msg_id, q.enqueued_at, q.read_ct, q.headers,
            (select c.adopted_msg_id from meshhook.queue_config c where c.queue = $6::text))
        end as mark, (s.running + 1::float8) / s.weight as rank
    from shared s, {queue_table} q
    -- Those and no others: the next of a key must wait if somebody else has this one locked.
    where s.share > 0 and q.msg_id = any (array[s.head]) and q.vt <= (select b.to_vt from bounds b)
    for update of q skip locked
), fair as materialized (
    select o.key, o.msg_id, o.vt, o.mark, o.rank from oldest_of_keys o
    union all select h.key, h.msg_id, h.vt, h.mark, h.rank from first_of_keys h
), rest as materialized (
    select q.msg_id, q.vt, case
        when q.read_ct > 0 and q.read_ct > meshhook.settled_attempts(q.headers)
            -- What is larger is unpacked nowhere here: it is read apart, and never runs.
            and coalesce(pg_catalog.pg_column_size(q.headers), 0) <= 80000
        then meshhook.claim_mark($6::text, q.msg_id, q.enqueued_at, q.read_ct, q.headers,
            (select c.adopted_msg_id from meshhook.queue_config c where c.queue = $6::text))
        end as mark
    from {queue_table} q
    where q.vt >= (select o.vt from oldest o) and q.vt <= (select b.to_vt from bounds b)
        and q.msg_id not in (select f.msg_id from fair f)
    order by q.vt
    limit case when (select l.is_limited from limits l) then 0
        else $3::int - (select pg_catalog.count(*) from fair) end
    for update skip locked
), locked as materialized (
    select l.*, case
        when l.mark is null or l.mark -> 'lost'::text = '0'::jsonb then 0
        when l.mark -> 'lost'::text = '1'::jsonb
            and (l.mark ->> 'attempt'::text)::int < $4::int then 1
        else 2 end as class
    from (select f.msg_id, f.vt, f.mark, f.rank from fair f
        union all select r.msg_id, r.vt, r.mark, 'infinity'::float8 from rest r) l
), head as materialized (
    select l.class, l.msg_id from locked l order by l.rank, l.vt, l.msg_id limit 1
), started as materialized (
    select f.key, pg_catalog.count(*)::float8 as starts from fair f
    where f.msg_id in (select c.msg_id from chosen c) and (select l.has_rates from limits l)
    group by f.key
), counted_of_keys as (
    insert into meshhook.starts as s (queue, is_of_queue, key, full_at)
    select $6::text, false, s.key, greatest(c.full_at, pg_catalog.now())
        + pg_catalog.make_interval(secs =>
            s.starts * l.starts_period_seconds / c.max_starts::float8)
    from started s, counted c, limits l where c.key = s.key and c.max_starts is not null
    on conflict (queue, is_of_queue, key) do update set full_at = excluded.full_at
), counted_of_queue as (
    insert into meshhook.starts as s (queue, is_of_queue, key, full_at)
    select $6::text, true, '', greatest(pg_catalog.now(), (
            select o.full_at from meshhook.starts o
            where o.queue = $6::text and o.is_of_queue and o.key = ''))
        + pg_catalog.make_interval(secs => (select pg_catalog.sum(s.starts) from started s)
            * l.starts_period_seconds / l.max_starts::float8)
    from limits l where l.max_starts is not null and exists (select from started)
    on conflict (queue, is_of_queue, key) do update set full_at = excluded.full_at
), chosen as materialized (
    select l.msg_id, l.vt, l.class, l.mark from locked l cross join head h
    where l.class = h.class and (h.class < 2 or l.msg_id = h.msg_id)
), claimed as (
    update {queue_table} q
    set read_ct = case when c.mark is null then greatest(q.read_ct, 0) + 1
            else (c.mark ->> 'read_ct'::text)::int end,
        {set_last_read_at} vt = pg_catalog.now() + pg_catalog.make_interval(secs => $1::float8),
        headers = case
            when c.mark is not null then
                case when c.mark ->> 'read_ct'::text = '1'::text
                    then meshhook.headers_object(q.headers) - 'meshhook-settled'::text
                    else meshhook.headers_object(q.headers) end
                || pg_catalog.jsonb_build_object('meshhook-claim'::text,
                    c.mark - 'is_recorded'::text)
            -- More settled attempts than reads is other clients' nonsense: settling would fail.
            when meshhook.settled_attempts(q.headers) > greatest(q.read_ct, 0)
                then q.headers - 'meshhook-settled'::text
            else q.headers end
    from chosen c
    -- A plain = would let the planner walk the whole index where it takes the table for empty.
    where q.msg_id = any (array[c.msg_id])
    returning q.msg_id, q.read_ct, q.enqueued_at, c.vt, c.class, q.message, case
        when q.headers is null then ''
        when pg_catalog.clock_timestamp() > (select
            pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => 0.5)) then null
        when pg_catalog.pg_column_size(q.headers) <= 1000
            and pg_catalog.pg_column_compression(q.headers) is null then {utf8 q.headers::text}
        else {utf8 meshhook.short_text(q.headers, false)} end as headers, c.mark, {key} as key
), lost as (
    insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, run_id, workflow_id,
        project_id, enqueued_at, finished_at, error_type, error_message)
    select $6::text, c.msg_id, (c.mark ->> 'attempt'::text)::int - 1, 'lost',
        meshhook.message_id_text(c.message, 'run_id'::text),
        meshhook.message_id_text(c.message, 'workflow_id'::text),
        meshhook.message_id_text(c.message, 'project_id'::text),
        c.enqueued_at, pg_catalog.now(), 'LeaseLost', 'the lease ran out with no outcome'
    from claimed c
    where not (c.mark -> 'is_recorded'::text)::boolean
)
-- Times as seconds since 1970: the driver makes a time of each in ten times the time of a number.
-- What is said to have fallen due before it was there fell due when it came.
select c.msg_id, c.read_ct, pg_catalog.date_part('epoch'::text, c.enqueued_at) as enqueued,
    pg_catalog.date_part('epoch'::text, greatest(c.vt, c.enqueued_at)) as ready, c.class, case
        when c.headers is null then null
        -- As JSON it is null all the same.
        when c.message is null then 'null'
        when pg_catalog.clock_timestamp() > (select
            pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => 0.5)) then null
        when pg_catalog.pg_column_size(c.message) <= 2000
            and pg_catalog.pg_column_compression(c.message) is null then {utf8 c.message::text}
        else {utf8 meshhook.short_text(c.message, false)} end as body,
    c.headers, pg_catalog.date_part('epoch'::text, pg_catalog.now()) as claimed,
    not (c.mark -> 'is_recorded'::text)::boolean as is_new_loss,
    coalesce(w.weight, 1::float8) as oldest_due, {utf8 c.key} as next_key
from claimed c left join weighted w on w.key = c.key
union all
select null::bigint, null::int, null::float8,
    pg_catalog.date_part('epoch'::text, (select d.vt from later d)), null::int, null::text,
    null::text, null::float8, null::boolean, pg_catalog.date_part('epoch'::text, o.vt), (
        select {utf8 k.key} from (
            select a.key, a.number from ahead a union all select a.key, a.number from behind a) k
        where k.number > (select l.most_keys from limits l))
from oldest o
