-- Returns the message and the headers of schedule $2 of queue $1. Locks: none. Index: the primary
-- key.
select s.message::text as message, s.headers::text as headers
from meshhook.schedules s
where s.queue = $1::text and s.name = $2::text
