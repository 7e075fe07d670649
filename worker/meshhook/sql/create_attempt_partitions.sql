-- Makes the history's partitions for the coming week. Locks: see the function.
select meshhook.create_attempt_partitions()
