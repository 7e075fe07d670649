-- The same as bound_audit_entries for queue $1. Locks: none.
-- Index: audit_log_queue_idx, as for list_audit_entries_of_queue.
select case when pg_catalog.count(*) = $3::int then pg_catalog.min(n.id) end as id
from (
    select a.queue, a.id
    from meshhook.audit_log a
    where (a.queue, a.id) < ($1::text, $2::bigint)
    order by a.queue desc, a.id desc
    limit $3::int
) n
where n.queue = $1::text and n.id >= $4::bigint
