-- Cordons the live workers of queue $1 on the hosts $2 for $3 seconds, and uncordons its others.
-- Locks: the rows that it writes, and waits for none. Index: workers_pkey.
select meshhook.cordon_workers(
    $1::pg_catalog.text, $2::pg_catalog.text[], $3::double precision)
