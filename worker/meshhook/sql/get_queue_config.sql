-- The settings of one queue. Locks: none. Index: queue_config_pkey.
select * from meshhook.queue_config where queue_name = $1::text
