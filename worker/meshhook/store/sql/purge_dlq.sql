-- Deletes up to $1 dead letters with ids above $2 and up to $3, and returns how many went, and the
-- last of them: repeated from there until none is left, so that no lock is held for long.
-- $4 is the queue, for the audit log.
-- Locks: the deleted rows, skipping locked ones. Index: the primary key.
with gone as (
    delete from {dlq_table} q
    -- An array, so that it is chosen once: as a join it might be chosen anew for each row.
    where q.msg_id = any (array(select p.msg_id from {dlq_table} p
                                where p.msg_id > $2::bigint and p.msg_id <= $3::bigint
                                order by p.msg_id limit $1::int for update skip locked))
    returning q.msg_id
), counted as materialized (
    select pg_catalog.count(*) as gone, pg_catalog.max(msg_id) as last from gone
), written as materialized (
    select meshhook.audit('dead_letters.purged', $4::text, count => c.gone) from counted c
)
-- Asked for, so that it is written.
select c.gone, c.last from counted c where (select pg_catalog.count(*) from written) >= 0::bigint
