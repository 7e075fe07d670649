-- What the newest $1 dead letters died of. Locks: none. Index: the primary key.
select d.msg_id as id,
    pg_catalog.left(d.headers #>> '{meshhook-dead-letter,error_type}'::text[], 200) as error_type,
    d.headers #>> '{meshhook-dead-letter,error_message}'::text[] as error_message,
    {moment d.enqueued_at} as dead_at
from {dlq_table} d
order by d.msg_id desc
limit $1::int
