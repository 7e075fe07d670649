-- Of the first $2 unique keys of queue $1, how many are of a job that is gone. Locks: none.
-- Indexes: the primary keys.
select pg_catalog.count(*) as looked,
    pg_catalog.count(*) filter (where q.is_there is null) as orphans
from (
    select u.msg_id, u.enqueued_at, u.expires_at from meshhook.unique_keys u
    where u.queue = $1::text
    order by u.key
    limit $2::int
) l
left join lateral (
    select true as is_there from {queue_table} q
    -- Not a plain =, as in sql/claim.sql.
    where q.msg_id = any (array[l.msg_id]) and q.enqueued_at = l.enqueued_at
    limit 1
) q on true
where l.expires_at is null or l.expires_at < pg_catalog.now()
