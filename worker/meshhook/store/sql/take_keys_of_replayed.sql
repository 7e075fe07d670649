-- Takes again the unique keys of the replayed jobs $1, in the transaction that replayed them, and
-- returns the jobs whose key another has, with that job and the key. $2 is their queue. Waits for
-- an open transaction that has taken one of the keys.
-- Locks: the taken keys, in their order. Indexes: the primary keys.
with wanted as materialized (
    select q.msg_id, q.enqueued_at, k.key,
        coalesce(k.header ->> 'until'::text = 'started', false) as until_started,
        case when pg_catalog.jsonb_typeof(k.header -> 'seconds'::text) = 'number'
            then least(greatest((k.header ->> 'seconds'::text)::float8, 0), 31622400)
            end as seconds,
        pg_catalog.row_number() over (partition by k.key order by q.msg_id) as rank,
        pg_catalog.first_value(q.msg_id) over (partition by k.key order by q.msg_id) as first_id
    from {target_table} q
    cross join lateral (
        select meshhook.unique_key_of(q.headers) as key,
            q.headers -> 'meshhook-unique'::text as header
    ) k
    where q.msg_id = any ($1::bigint[]) and pg_catalog.length(k.key) between 1 and 200
), judged as materialized (
    select w.*, u.msg_id as old_msg_id, u.enqueued_at as old_enqueued_at,
        coalesce(case
            when u.expires_at is not null then u.expires_at > pg_catalog.clock_timestamp()
            else q.read_ct is not null and (not u.until_started or q.read_ct = 0)
            end, false) as is_held
    from wanted w
    left join lateral (
        select u.* from meshhook.unique_keys u
        -- Not a plain =, as in sql/claim.sql.
        where u.queue = $2::text and u.key = any (array[w.key])
        limit 1
    ) u on true
    left join lateral (
        select q.read_ct from {target_table} q
        where q.msg_id = any (array[u.msg_id]) and q.enqueued_at = u.enqueued_at
        limit 1
    ) q on true
), taken as (
    insert into meshhook.unique_keys as u
        (queue, key, msg_id, enqueued_at, until_started, expires_at)
    select $2::text, j.key, j.msg_id, j.enqueued_at, j.until_started,
        pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => j.seconds)
    from judged j
    where j.rank = 1 and not j.is_held
    order by j.key collate pg_catalog."C"
    on conflict (queue, key) do update
        set msg_id = excluded.msg_id, enqueued_at = excluded.enqueued_at,
            until_started = excluded.until_started, expires_at = excluded.expires_at
        where (u.key, u.msg_id, u.enqueued_at) in (
            select j.key, j.old_msg_id, j.old_enqueued_at from judged j)
    returning u.msg_id
)
select j.msg_id,
    case when j.is_held then j.old_msg_id when j.rank > 1 then j.first_id end as holder, j.key
from judged j
where (j.msg_id in (select t.msg_id from taken t)) is not true
