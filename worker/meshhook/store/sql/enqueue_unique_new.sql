-- Stores messages whose unique keys have no row; with $8 only if none of them has one. Returns one
-- row with their positions, from 1 and in order, and their ids; null if there are none. For the
-- rest, and for keys that a sender was quicker to take, sql/enqueue_unique.sql looks at the jobs.
-- The headers $2 name the keys $4, each of which may be there once. $7 is the queue.
-- Waits for an open transaction that has taken one of the keys.
-- The selects of parameters hide how many there are: a plan for one message is as good for 1,000,
-- and is kept.
-- Locks: the taken keys in their order. Indexes: the primary key of the keys.
with known as materialized (
    select u.key from meshhook.unique_keys u
    where u.queue = $7::text and u.key = any ((select $4::text[])::text[])
), numbered as materialized (
    select i.*, pg_catalog.nextval((select pg_catalog.pg_get_serial_sequence(
            '{queue_table}'::text, 'msg_id'::text)::regclass)) as msg_id
    from unnest(
        (select $1::text[]), (select $2::text[]), (select $3::float8[]), (select $4::text[]),
        (select $5::boolean[]), (select $6::float8[])
    ) with ordinality as i (message, headers, delay_seconds, key, until_started, seconds, position)
    where case when $8::boolean then not exists (select from known)
        else (i.key in (select k.key from known k)) is not true end
), taken as (
    insert into meshhook.unique_keys
        (queue, key, msg_id, enqueued_at, until_started, expires_at)
    select $7::text, n.key, n.msg_id, pg_catalog.now(), coalesce(n.until_started, false),
        pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => n.seconds)
    from numbered n
    order by n.key collate pg_catalog."C"
    on conflict (queue, key) do nothing
    returning msg_id
), sent as (
    insert into {queue_table} (msg_id, vt, message, headers) overriding system value
    select n.msg_id,
        pg_catalog.clock_timestamp()
            + pg_catalog.make_interval(secs => coalesce(n.delay_seconds, 0)),
        n.message::jsonb, n.headers::jsonb
    from numbered n
    where (n.msg_id in (select t.msg_id from taken t)) is true
)
select pg_catalog.array_agg(n.position order by n.position) as positions,
    pg_catalog.array_agg(n.msg_id order by n.position) as msg_ids
from numbered n
where (n.msg_id in (select t.msg_id from taken t)) is true
