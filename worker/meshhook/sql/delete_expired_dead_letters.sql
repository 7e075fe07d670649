-- Deletes up to $1 dead letters older than $2 days, and returns how many went.
-- Locks: the deleted rows, skipping locked ones. Index: the primary key, since ids follow time.
with gone as (
    delete from {dlq_table} q
    where q.msg_id in (
        select p.msg_id from (select * from {dlq_table} order by msg_id limit $1::int) p
        where p.enqueued_at < now() - make_interval(days => $2::int))
    returning 1
)
select count(*) from gone
