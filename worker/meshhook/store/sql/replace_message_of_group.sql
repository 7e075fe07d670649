-- Replaces the callback, for queue $1, of the group with id $2, if it still is $3, by $4; returns
-- whether it was. Locks: the row, unless it is locked. Index: the primary key.
with locked as (
    select g.id from meshhook.job_groups g
    where g.callback_queue = $1::text and g.id = $2::text::uuid and g.callback_id is null
      and g.callback_message = $3::text::jsonb
    for update skip locked
), replaced as (
    update meshhook.job_groups g set callback_message = $4::text::jsonb
    from locked l
    where g.id = l.id
    returning 1
)
select exists (select from replaced) as is_replaced
