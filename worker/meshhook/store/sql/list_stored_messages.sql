-- Returns the messages that schedules and groups keep for queue $1, with the id of the key of each,
-- null for none. Locks: none. Index: the primary key of schedules; of groups it
-- reads those that have not finished.
select m.place, m.name,
    case when meshhook.is_encrypted(m.message)
        then meshhook.shown_text(pg_catalog.left(m.message -> 'enc'::text ->> 'key'::text, 60))
        end as key_id,
    m.message::text as body
from (
    select 'schedules' as place, s.name, s.message
    from meshhook.schedules s
    where s.queue = $1::text
    union all
    select 'groups', g.id::text, g.callback_message
    from meshhook.job_groups g
    where g.callback_queue = $1::text and g.callback_id is null
) m
order by m.place desc, m.name
