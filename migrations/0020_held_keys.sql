-- Held keys: the jobs of a key that is held stay where they are, until a time or until it is resumed.
-- Locks: ACCESS EXCLUSIVE on meshhook.keys for the new column, which rewrites nothing.
-- Time at size: milliseconds; no queue is touched.

set local search_path = pg_catalog, pg_temp;

alter table meshhook.keys add column held_until timestamptz;

comment on column meshhook.keys.held_until is
    'Until when no job of the key is claimed; infinity means until it is resumed, null that it is not '
    'held.';
