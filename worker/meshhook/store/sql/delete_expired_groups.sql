-- Deletes up to 5,000 groups that ended longer ago than their queue keeps history, and returns how
-- many went. Locks: the rows it deletes. Index: job_groups_finished_idx.
select meshhook.delete_past_groups()
