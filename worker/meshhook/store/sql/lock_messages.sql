-- Locks the messages $1, and returns them with the follow-ups in their headers. Locks: the rows,
-- skipping locked ones. Index: the primary key.
select q.msg_id, case when q.message is null then 'null' else q.message::text end as body,
    f.queue as follow_up_queue, f.message::text as follow_up
from {stored_in} q
left join lateral (
    select q.headers #> '{meshhook-on-dead-letter,message}'::text[] as message,
        q.headers #>> '{meshhook-on-dead-letter,queue}'::text[] as queue
    where pg_catalog.pg_column_size(q.headers) <= 80000
) f on true
where q.msg_id = any ($1::bigint[])
order by q.msg_id
for update of q skip locked
