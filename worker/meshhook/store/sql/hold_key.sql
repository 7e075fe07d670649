-- Holds key $2 of queue $1 for $3 seconds from now, until it is resumed if that is null; 0 resumes
-- it. Workers follow.
-- Locks: the row. Index: keys_pkey.
insert into meshhook.keys as k (queue, key, held_until)
values ($1::text, $2::text, case when $3::float8 is null then 'infinity'::timestamptz
    when $3::float8 > 0::float8
        then pg_catalog.now() + pg_catalog.make_interval(secs => $3::float8) end)
on conflict (queue, key) do update set held_until = excluded.held_until
