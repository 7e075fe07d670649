-- Deletes up to $1 archived messages older than $2 days, and returns how many went.
-- Locks: the deleted rows, skipping locked ones. Index: archived_at_idx_<queue>, the primary key.
-- A day is 24 hours, whatever time zone the session is in.
with gone as (
    delete from {archive_table} q
    -- An array, so that it is chosen once: as a join it might be chosen anew for each row.
    where q.msg_id = any (array(
        select old.msg_id from {archive_table} old
        where old.archived_at < pg_catalog.now() - pg_catalog.make_interval(hours => 24 * $2::int)
        order by old.archived_at limit $1::int
        for update skip locked))
    returning 1
)
select pg_catalog.count(*) from gone
