-- The names of all queues, and whether their tables are there. Locks: none.
select c.queue,
    pg_catalog.to_regclass(pg_catalog.format('pgmq.%I', 'q_' || c.queue)) is not null
        and pg_catalog.to_regclass(
            pg_catalog.format('pgmq.%I', 'q_' || c.queue || '_dlq')) is not null
        as is_complete
from meshhook.queue_config c
order by c.queue
