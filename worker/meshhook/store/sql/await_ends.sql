-- Says that somebody waits for the end of a job, for the next 15 seconds. Locks: none.
select meshhook.await_ends()
