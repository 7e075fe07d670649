-- Deletes a chunk of breakers that count nothing or that no job has asked for a day, and returns
-- how many went. Locks: the deleted rows, skipping locked ones.
select meshhook.delete_idle_breakers()
