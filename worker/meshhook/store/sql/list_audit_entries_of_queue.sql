-- The same as list_audit_entries for queue $1. Locks: none.
-- Index: audit_log_queue_idx: rows are compared, not the queue with =, which would let the primary
-- key serve the order.
select a.id, {moment a.at} as at, a.database_role, meshhook.shown_text(a.actor) as actor, a.source,
    a.action, meshhook.shown_text(a.queue) as queue, meshhook.shown_text(a.filter::text) as filter,
    a.count, meshhook.shown_text(a.details::text) as details, a.operation::text as operation
from meshhook.audit_log a
where (a.queue, a.id) < ($1::text, $6::bigint) and (a.queue, a.id) >= ($1::text, $8::bigint)
  and ($2::text is null or a.action = $2::text
    or pg_catalog.starts_with(a.action, $2::text || '.'))
  and ($3::text is null or a.actor = $3::text)
  and ($4::timestamptz is null or a.at >= $4::timestamptz)
  and ($5::timestamptz is null or a.at < $5::timestamptz)
order by a.queue desc, a.id desc
limit $7::int
