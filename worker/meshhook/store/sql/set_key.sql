-- Sets the weight and the limits of key $2 of queue $1; workers follow.
-- Locks: the row. Index: keys_pkey.
insert into meshhook.keys as k (queue, key, weight, max_running, max_starts)
values ($1::text, $2::text, $3::float8, $4::int, $5::int)
on conflict (queue, key) do update set weight = excluded.weight,
    max_running = excluded.max_running, max_starts = excluded.max_starts
