-- Says who makes changes, with what, as a part of what, and what was asked for, to the end of this
-- transaction; returns what was said before. Locks: none.
with before as materialized (
    select coalesce(pg_catalog.current_setting('meshhook.actor', true), '') as actor,
        coalesce(pg_catalog.current_setting('meshhook.source', true), '') as source,
        coalesce(pg_catalog.current_setting('meshhook.operation', true), '') as operation,
        coalesce(pg_catalog.current_setting('meshhook.filter', true), '') as filter
)
select b.actor, b.source, b.operation, b.filter,
    pg_catalog.set_config('meshhook.actor', $1::text, true),
    pg_catalog.set_config('meshhook.source', $2::text, true),
    pg_catalog.set_config('meshhook.operation', $3::text, true),
    pg_catalog.set_config('meshhook.filter', $4::text, true)
from before b
