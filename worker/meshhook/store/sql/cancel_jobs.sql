-- Cancels the jobs $2 of queue $1 that are in state $3 (null: any), for reason $4, asked by $5.
-- Locks: the messages, skipping locked ones. Indexes: see meshhook.cancel_messages.
select c.msg_id, c.result, c.was, {moment c.at} as at
from meshhook.cancel($1::text, $2::bigint[], state => $3::text, reason => $4::text,
    requested_by => $5::text) as c
