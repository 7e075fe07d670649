-- Makes a group of jobs that were stored in this transaction. $3 is its name (null: its id), $4 has
-- its jobs, $5 to $8 are the queue, the message, the headers and the delay of its callback.
-- Locks: the new row. Index: the primary key.
select meshhook.create_group($1::text::uuid, $2::text, $3::text, $4::bigint[], $5::text,
    $6::text::jsonb, $7::text::jsonb, $8::double precision)
