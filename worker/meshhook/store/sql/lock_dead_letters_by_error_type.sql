-- Chooses the $1 oldest dead letters of error type $2 that nobody else has locked, except $3.
-- Locks: the chosen rows. Index: q_<queue>_dlq_error_idx; without it the primary key, read
-- until enough are found.
select d.msg_id from {dlq_table} d
where pg_catalog.left(d.headers #>> '{meshhook-dead-letter,error_type}'::text[], 200) = $2::text
  and d.msg_id <> all ($3::bigint[])
order by d.msg_id
limit $1::int
for update skip locked
