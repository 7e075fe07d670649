-- Deletes rows of unique keys that hold nothing, among the $3 keys of queue $1 that follow the key
-- $2: their time is over, or their message is gone, which others deleted. Returns the last of these
-- keys; null if they were all that were left. Settling deletes the rows of the other jobs.
-- Locks: the deleted rows, skipping locked ones. Indexes: the primary keys.
with looked as materialized (
    select u.key, u.msg_id, u.enqueued_at, u.expires_at from meshhook.unique_keys u
    where u.queue = $1::text and u.key > $2::text
    order by u.key
    limit $3::int
), unused as materialized (
    select l.* from looked l
    left join lateral (
        select true as is_there from {queue_table} q
        -- Not a plain =, as in sql/claim.sql.
        where q.msg_id = any (array[l.msg_id]) and q.enqueued_at = l.enqueued_at
        limit 1
    ) q on true
    where case when l.expires_at is null then q.is_there is null
        else l.expires_at < pg_catalog.clock_timestamp() end
), unlocked as materialized (
    select u.key from unused n, meshhook.unique_keys u
    where u.queue = $1::text and u.key = any (array[n.key])
      -- A sender may have taken the key since, or made its time longer.
      and u.msg_id = n.msg_id and u.enqueued_at = n.enqueued_at
      and u.expires_at is not distinct from n.expires_at
    for update of u skip locked
), deleted as (
    -- A trigger deletes the row.
    update meshhook.unique_keys u set expires_at = '-infinity'
    from unlocked k
    where u.queue = $1::text and u.key = any (array[k.key])
)
select pg_catalog.max(l.key) from looked l having pg_catalog.count(*) = $3::int
