-- The open request to cancel job $2 of queue $1, if there is one. Locks: none.
-- Index: cancellations_pkey.
select {moment c.enqueued_at} as enqueued_at, {moment c.requested_at} as requested_at,
    c.requested_by, c.reason
from meshhook.cancellations c
where c.queue = $1::text and c.msg_id = $2::bigint and c.ended_at is null
