-- For queues $1 (null: all) with a budget for retries or a queue that follows dead letters: how
-- many seconds ahead the budget is spent, whether the queue that follows is there, and whether it
-- refuses what is not encrypted. Locks: none. Index: starts_pkey, queue_config_queue_key.
select c.queue, c.max_retries_per_second, c.dead_letter_follow_up,
    greatest(pg_catalog.date_part('epoch'::text, s.full_at - pg_catalog.clock_timestamp()),
        0::float8) as put_off_seconds,
    c.dead_letter_follow_up is null or exists (
        select from meshhook.queue_config f where f.queue = c.dead_letter_follow_up
    ) as is_followed,
    exists (
        select from meshhook.queue_config f
        where f.queue = c.dead_letter_follow_up and f.encryption = 'require'::text
    ) as is_follow_up_refused
from meshhook.queue_config c
left join meshhook.starts s on s.queue = c.queue_name and s.is_of_queue and s.key = 'retries'::text
where ($1::text[] is null or c.queue = any ($1::text[]))
  and (c.max_retries_per_second is not null or c.dead_letter_follow_up is not null)
order by c.queue
