-- Makes the history's partitions for the coming week.
-- Locks: see meshhook.create_attempt_partitions.
select meshhook.make_coming_partitions()
