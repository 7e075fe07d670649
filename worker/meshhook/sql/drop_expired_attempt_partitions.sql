-- Drops the history's partitions that no queue keeps. Locks: see the function.
select meshhook.drop_expired_attempt_partitions()
