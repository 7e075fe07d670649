-- Pauses schedule $2 of queue $1, or lets it go on at $4, as $3 says; returns whether there is one.
-- Locks: the row. Index: the primary key.
with changed as (
    update meshhook.schedules s
    set paused = $3::boolean,
        next_at = case when $3::boolean then s.next_at else $4::timestamptz end,
        try_at = case when $3::boolean then s.try_at
            else coalesce($4::timestamptz, pg_catalog.now()) end
    where s.queue = $1::text and s.name = $2::text
    returning 1
)
select exists (select from changed)
