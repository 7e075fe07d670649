-- Deletes schedule $2 of queue $1 with its history, and returns whether there was one.
-- Locks: the row and its firings. Index: the primary key.
with gone as (
    delete from meshhook.schedules s where s.queue = $1::text and s.name = $2::text returning 1
)
select exists (select from gone)
