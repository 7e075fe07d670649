-- Returns the newest $3 firings of schedule $2 of queue $1, the newest first.
-- Locks: none. Index: the primary key.
select {moment f.due_at} as due_at, {moment f.fired_at} as fired_at, f.outcome, f.msg_id, f.missed,
    f.is_manual
from meshhook.schedule_firings f
where f.queue = $1::text and f.name = $2::text
order by f.due_at desc
limit $3::integer
