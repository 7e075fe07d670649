-- Deletes up to 5,000 firings of schedules that their queues no longer keep, and returns how many
-- went. Locks: the rows it deletes. Index: the primary key.
select meshhook.delete_past_firings()
