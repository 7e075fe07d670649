-- The settings of every queue. Locks: none.
select * from meshhook.queue_config order by queue_name
