-- Forgets key $2 of queue $1 if nothing is set for it.
-- Locks: the row. Index: keys_pkey.
delete from meshhook.keys k
where k.queue = $1::text and k.key = $2::text and k.weight is null and k.max_running is null
    and k.max_starts is null and k.held_until is null
