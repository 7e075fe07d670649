-- Replaces the messages $1 by the bodies $2. Locks: the rows. Index: the primary key.
update {stored_in} q set message = item.body::jsonb
from unnest($1::bigint[], $2::text[]) as item (msg_id, body)
where q.msg_id = any (array[item.msg_id])
