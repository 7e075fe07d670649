-- Stores messages whose unique keys nobody has, and says what became of each: new; or existing,
-- replaced or refused, as $7 says what to do where a job has the key, with the id of the job that
-- has it now. `lost` means that a sender was quicker, and that nothing was done: try again, with a
-- snapshot that shows its job. Each key may be in $4 once. $8 is the queue. With $9 nothing is
-- stored if any is refused.
-- A duplicate takes no id. Waits for an open transaction that has taken one of the keys.
-- Locks: the taken keys in their order. Before them, in the order of the keys, waiting jobs that
-- are replaced, and, so that they don't start before this transaction ends, those that have a key
-- until they start. Indexes: the primary keys.
with item as materialized (
    select * from unnest(
        $1::text[], $2::text[], $3::float8[], $4::text[], $5::boolean[], $6::float8[], $7::text[]
    ) with ordinality as item (
        message, headers, delay_seconds, key, until_started, seconds, on_conflict, position)
), seen as materialized (
    select i.*, u.msg_id, u.enqueued_at, u.until_started as holds_until_started, u.expires_at,
        q.read_ct
    from item i
    left join lateral (
        select u.* from meshhook.unique_keys u
        -- Not a plain =, as in sql/claim.sql.
        where u.queue = $8::text and u.key = any (array[i.key])
        limit 1
    ) u on true
    left join lateral (
        select q.read_ct from {queue_table} q
        where q.msg_id = any (array[u.msg_id]) and q.enqueued_at = u.enqueued_at
        limit 1
    ) q on true
), unstarted as materialized (
    select q.msg_id from seen s, {queue_table} q
    where q.msg_id = any (array[s.msg_id]) and q.enqueued_at = any (array[s.enqueued_at])
      and q.read_ct = 0
      and s.expires_at is null and s.holds_until_started and s.on_conflict <> 'replace'
    order by s.key collate pg_catalog."C"
    for share of q
), replaceable as materialized (
    select q.msg_id from seen s, {queue_table} q
    where q.msg_id = any (array[s.msg_id]) and q.enqueued_at = any (array[s.enqueued_at])
      and q.read_ct = 0
      and (s.expires_at is null or s.expires_at > pg_catalog.clock_timestamp())
      and s.on_conflict = 'replace'
    order by s.key collate pg_catalog."C"
    for no key update of q
), judged as materialized (
    select s.*, coalesce(case
            when s.expires_at is not null then s.expires_at > pg_catalog.clock_timestamp()
            when not s.holds_until_started then s.read_ct is not null
            else (s.msg_id in (select u.msg_id from unstarted u)) is true
                or (s.msg_id in (select r.msg_id from replaceable r)) is true end, false) as is_held
    from seen s
), numbered as materialized (
    select f.*, pg_catalog.nextval((select pg_catalog.pg_get_serial_sequence(
            '{queue_table}'::text, 'msg_id'::text)::regclass)) as new_msg_id
    from (
        select j.* from judged j
        where not j.is_held and not ($9::boolean and exists (
            select from judged other where other.is_held and other.on_conflict = 'error'))
        order by j.position
    ) f
), taken as (
    insert into meshhook.unique_keys as u
        (queue, key, msg_id, enqueued_at, until_started, expires_at)
    select $8::text, n.key, n.new_msg_id, pg_catalog.now(), coalesce(n.until_started, false),
        pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => n.seconds)
    from numbered n
    order by n.key collate pg_catalog."C"
    on conflict (queue, key) do update
        set msg_id = excluded.msg_id, enqueued_at = excluded.enqueued_at,
            until_started = excluded.until_started, expires_at = excluded.expires_at
        -- Only what holds the key no more by what was seen.
        where (u.key, u.msg_id, u.enqueued_at) in (
            select n.key, n.msg_id, n.enqueued_at from numbered n)
    returning u.msg_id
), sent as (
    insert into {queue_table} (msg_id, vt, message, headers) overriding system value
    select n.new_msg_id,
        pg_catalog.clock_timestamp()
            + pg_catalog.make_interval(secs => coalesce(n.delay_seconds, 0)),
        n.message::jsonb, coalesce(n.headers::jsonb, '{}')
            || meshhook.unique_header(n.key, n.until_started, n.seconds)
    from numbered n
    where (n.new_msg_id in (select t.msg_id from taken t)) is true
    order by n.position
), replaced as (
    update {queue_table} q
    set vt = pg_catalog.clock_timestamp()
            + pg_catalog.make_interval(secs => coalesce(j.delay_seconds, 0)),
        message = j.message::jsonb,
        headers = coalesce(j.headers::jsonb, '{}')
            || meshhook.unique_header(j.key, j.until_started, j.seconds)
    from judged j
    where q.msg_id = any (array[j.msg_id]) and q.enqueued_at = any (array[j.enqueued_at])
      and j.is_held and (j.msg_id in (select r.msg_id from replaceable r)) is true
), renewed as (
    update meshhook.unique_keys u
    set until_started = coalesce(j.until_started, false),
        expires_at = pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => j.seconds)
    from judged j
    -- Nothing is read unless something was replaced.
    where (select pg_catalog.count(*) from replaceable) > 0
      and u.queue = $8::text and u.key = any (array[j.key])
      and u.msg_id = any (array[j.msg_id])
      and j.is_held and (j.msg_id in (select r.msg_id from replaceable r)) is true
)
select n.position, case when (n.new_msg_id in (select t.msg_id from taken t)) is true
        then 'new' else 'lost' end as outcome, n.new_msg_id as msg_id
from numbered n
union all
select j.position, case
        when (j.msg_id in (select r.msg_id from replaceable r)) is true then 'replaced'
        when j.on_conflict = 'error' then 'refused'
        else 'existing' end, j.msg_id
from judged j
where j.is_held
order by 1
