-- Deletes up to 5,000 rows of the audit log that are no longer kept, and returns how many went.
-- Locks: the rows it deletes. Index: the primary key.
select meshhook.delete_past_audit_entries()
