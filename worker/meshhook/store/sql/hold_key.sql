-- Holds key $2 of queue $1 for $3 seconds from now, until it is resumed if that is null, for reason
-- $4; 0 seconds resume it. Workers follow.
-- Locks: the row. Index: keys_pkey.
insert into meshhook.keys as k (queue, key, held_until, held_at, held_by, hold_reason)
select $1::text, $2::text, h.held_until,
    case when h.held_until is not null then pg_catalog.now() end,
    case when h.held_until is not null then 'manual' end,
    case when h.held_until is not null then $4::text end
from (select case when $3::float8 is null then 'infinity'::timestamptz
    when $3::float8 > 0::float8
        then pg_catalog.now() + pg_catalog.make_interval(secs => $3::float8) end as held_until) h
on conflict (queue, key) do update set held_until = excluded.held_until,
    held_at = excluded.held_at, held_by = excluded.held_by, hold_reason = excluded.hold_reason,
    held_by_dead_letter = null, held_by_job = null
