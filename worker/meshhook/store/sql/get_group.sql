-- Returns the group of queue $1 with the name $2. Locks: none. Index: job_groups_queue_name_key.
select g.queue, g.name, g.total, g.succeeded, g.failed, g.cancelled, g.lost,
    {moment g.created_at} as created_at,
    {moment g.finished_at} as finished_at, g.callback_queue, g.callback_id, g.callback_error
from meshhook.job_groups g
where g.queue = $1::text and g.name = $2::text
