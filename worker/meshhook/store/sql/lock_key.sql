-- What is set for key $2 of queue $1, to be changed in this transaction; none if nothing is.
-- Locks: the row. Index: keys_pkey.
select k.weight, k.max_running, k.max_starts from meshhook.keys k
where k.queue = $1::text and k.key = $2::text for update
