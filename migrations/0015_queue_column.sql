-- A queue goes by one name in all tables and views: `queue`. The column queue_name of queue_config
-- stays for workers and operators of the version before, which run on while the schema changes, and
-- goes with the release after the next.
-- Locks: meshhook.queue_config, ACCESS EXCLUSIVE, while it is written anew; it has one row a queue.
-- Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

alter table meshhook.queue_config
    add column queue text not null generated always as (queue_name) stored,
    add constraint queue_config_queue_key unique (queue);

comment on column meshhook.queue_config.queue is 'The queue.';
comment on column meshhook.queue_config.queue_name is
    'The old name of the column queue, for programs of older versions.';
