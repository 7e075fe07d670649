-- The dead letters $1 as a list shows them, newest first: no bodies, and no more than 1,000
-- characters of a message. Locks: none. Index: the primary key.
select n.msg_id as id, {moment n.enqueued_at} as dead_at,
    pg_catalog.left(n.died ->> 'attempts'::text, 20) as attempts,
    meshhook.shown_text(pg_catalog.left(n.died ->> 'error_type'::text, 200)) as error_type,
    meshhook.shown_text(pg_catalog.left(n.died ->> 'error_message'::text, 1000)) as error_message,
    n.run_id
from (
    select q.msg_id, q.enqueued_at, meshhook.message_id_text(q.message, 'run_id') as run_id,
        case when pg_catalog.pg_column_size(q.headers) <= 120000 then
            q.headers -> 'meshhook-dead-letter'::text end as died
    from {dlq_table} q
    where q.msg_id = any ($1::bigint[])
) n
order by n.msg_id desc
