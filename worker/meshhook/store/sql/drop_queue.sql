-- Drops a queue with everything in it. Locks: ACCESS EXCLUSIVE on its tables.
select meshhook.drop_queue($1::text)
