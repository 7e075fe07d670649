-- Returns the messages that schedules and groups keep for queue $1, with the id of the key of each
-- and of the follow-up in its headers, null for none. Locks: none. Index: the primary key of
-- schedules; of groups it reads those that have not finished.
select m.place, m.name,
    case when meshhook.is_encrypted(m.message)
        then meshhook.shown_text(pg_catalog.left(m.message -> 'enc'::text ->> 'key'::text, 60))
        end as key_id,
    f.message is not null as has_follow_up,
    case when meshhook.is_encrypted(f.message)
        then meshhook.shown_text(pg_catalog.left(f.message -> 'enc'::text ->> 'key'::text, 60))
        end as follow_up_key_id,
    m.message::text as body, f.queue as follow_up_queue, f.message::text as follow_up
from (
    select 'schedules' as place, s.name, s.message, s.headers
    from meshhook.schedules s
    where s.queue = $1::text
    union all
    select 'groups', g.id::text, g.callback_message, g.callback_headers
    from meshhook.job_groups g
    where g.callback_queue = $1::text and g.callback_id is null
) m
cross join lateral (
    select m.headers #> '{meshhook-on-dead-letter,message}'::text[] as message,
        m.headers #>> '{meshhook-on-dead-letter,queue}'::text[] as queue
) f
order by m.place desc, m.name
