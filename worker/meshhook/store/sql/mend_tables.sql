-- Mends what a busy table kept a migration from mending. Locks: see the function.
select meshhook.mend_tables()
