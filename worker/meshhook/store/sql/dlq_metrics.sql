-- How many dead letters there are, counted up to $1, and the ages of the oldest and the newest.
-- Locks: none. Index: the primary key, since ids follow time.
select
    (select pg_catalog.count(*)
     from (select from {dlq_table} d order by d.msg_id limit $1::int) counted) as dead_letters,
    meshhook.age_seconds((
        select d.enqueued_at from {dlq_table} d order by d.msg_id limit 1)) as oldest_seconds,
    meshhook.age_seconds((
        select d.enqueued_at from {dlq_table} d order by d.msg_id desc limit 1)) as newest_seconds
