-- Deletes up to $1 messages, and returns how many went: repeated until none is left, so that no
-- lock is held for long. Locks: the deleted rows, skipping locked ones. Index: the primary key.
with gone as (
    delete from {queue_table} q
    -- An array, so that it is chosen once: as a join it might be chosen anew for each row.
    where q.msg_id = any (array(select p.msg_id from {queue_table} p order by p.msg_id limit $1::int
                                for update skip locked))
    returning 1
)
select count(*) from gone
