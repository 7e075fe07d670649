-- The name of the group $1, if job $3 of queue $2 is one of its jobs. Locks: none.
-- Index: the primary key.
select meshhook.shown_text(g.name) as name
from meshhook.job_groups g
where g.id = $1::pg_catalog.uuid and g.queue = $2::text
  and pg_catalog.elem_contained_by_multirange($3::bigint, g.msg_ids)
