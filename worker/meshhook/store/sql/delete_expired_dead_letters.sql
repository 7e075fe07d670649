-- Deletes up to $1 dead letters older than $2 days, and returns how many went.
-- Locks: the deleted rows, skipping locked ones. Index: the primary key, since ids follow time.
-- A day is 24 hours, whatever time zone the session is in.
with gone as (
    delete from {dlq_table} q
    -- An array, so that it is chosen once: as a join it might be chosen anew for each row.
    where q.msg_id = any (array(
        select old.msg_id
        from (select p.msg_id, p.enqueued_at from {dlq_table} p order by p.msg_id limit $1::int
              for update skip locked) old
        where old.enqueued_at < pg_catalog.now() - pg_catalog.make_interval(hours => 24 * $2::int)))
    returning 1
)
select pg_catalog.count(*) from gone
