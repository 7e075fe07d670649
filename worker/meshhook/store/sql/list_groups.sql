-- Returns the newest $3 groups, of queue $1 (null: of all), and only those that have not finished
-- if $2. Locks: none. Index: job_groups_newest_idx.
select g.queue, g.name, g.total, g.succeeded, g.failed, g.cancelled, g.lost,
    {moment g.created_at} as created_at,
    {moment g.finished_at} as finished_at, g.callback_queue, g.callback_id, g.callback_error
from meshhook.job_groups g
where ($1::text is null or g.queue = $1::text) and (not $2::boolean or g.finished_at is null)
order by g.created_at desc
limit $3::integer
