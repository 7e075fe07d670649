-- Removes what is set for key $2 of queue $1; the defaults of the queue hold again.
-- Locks: the row. Index: keys_pkey.
delete from meshhook.keys k where k.queue = $1::text and k.key = $2::text
