-- Deletes a chunk of expired attempts, and returns how many went. Locks: the deleted rows.
select meshhook.delete_past_attempts()
