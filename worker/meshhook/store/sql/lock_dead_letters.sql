-- Chooses the $1 oldest dead letters that nobody else has locked, except $2.
-- Locks: the chosen rows. Index: the primary key.
select d.msg_id from {dlq_table} d
where d.msg_id <> all ($2::bigint[])
order by d.msg_id
limit $1::int
for update skip locked
