-- Drops the history's partitions that no queue keeps.
-- Locks: see meshhook.drop_expired_attempt_partitions.
select meshhook.drop_past_partitions()
