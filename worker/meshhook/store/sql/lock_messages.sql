-- Locks the messages $1, and returns them. Locks: the rows, skipping locked ones.
-- Index: the primary key.
select q.msg_id, case when q.message is null then 'null' else q.message::text end as body
from {stored_in} q
where q.msg_id = any ($1::bigint[])
order by q.msg_id
for update skip locked
