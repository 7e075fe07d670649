-- Chooses the $1 oldest dead letters that nobody else has locked. Locks: the chosen rows.
-- Index: the primary key.
select d.msg_id from {dlq_table} d order by d.msg_id limit $1::int for update skip locked
