-- Open requests to cancel jobs of the queues $1, the oldest first, up to $2. A worker asks every
-- second. Locks: none. Index: cancellations_open_idx.
select c.queue, c.msg_id, pg_catalog.date_part('epoch'::text, c.enqueued_at) as enqueued,
    c.requested_at, c.requested_by, c.reason
from meshhook.cancellations c
where c.queue = any ($1::text[]) and c.ended_at is null
order by c.requested_at
limit $2::int
