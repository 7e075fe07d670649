-- Sends the job of schedule $2 of queue $1 now, and returns its id. Locks: the schedule, the new
-- rows. Indexes: the primary keys.
insert into meshhook.schedule_firings as f (queue, name, due_at, is_manual)
select s.queue, s.name, pg_catalog.clock_timestamp(), true
from meshhook.schedules s
where s.queue = $1::text and s.name = $2::text
returning f.msg_id
