-- The name of the group $1, if job $3 of queue $2 is one of its jobs. Locks: none.
-- Index: the primary key.
select meshhook.shown_text(g.name) as name
from (
    -- By its id alone: a plan made for few groups may else read all of those of the queue.
    select j.name, j.queue, j.msg_ids from meshhook.job_groups j
    where j.id = $1::pg_catalog.uuid limit 1
) g
where g.queue = $2::text and pg_catalog.elem_contained_by_multirange($3::bigint, g.msg_ids)
