-- Replaces the message of schedule $2 of queue $1, if it still is $3, by $4, and the follow-up in
-- its headers by $5, unless that is null; returns whether it was. Locks: the row, unless it is
-- locked. Index: the primary key.
with locked as (
    select s.queue, s.name from meshhook.schedules s
    where s.queue = $1::text and s.name = $2::text and s.message = $3::text::jsonb
    for update skip locked
), replaced as (
    update meshhook.schedules s
    set message = $4::text::jsonb,
        headers = case when $5::text is null then s.headers
            else pg_catalog.jsonb_set(s.headers, '{meshhook-on-dead-letter,message}'::text[],
                $5::text::jsonb, false) end
    from locked l
    where s.queue = l.queue and s.name = l.name
    returning 1
)
select exists (select from replaced) as is_replaced
