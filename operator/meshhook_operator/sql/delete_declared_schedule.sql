-- Deletes schedule $2 of queue $1 with its history, if JobSchedule $3 has it.
-- Locks: the row and its firings. Index: the primary key.
delete from meshhook.schedules s
where s.queue = $1::pg_catalog.text and s.name = $2::pg_catalog.text
  and s.resource = $3::pg_catalog.text
