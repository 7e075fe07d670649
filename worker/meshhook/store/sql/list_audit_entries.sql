-- Up to $7 rows of the audit log with ids from $8 to below $6, newest first: with action $2 or an
-- action of that group, of actor $3, from $4 on and before $5; null means any. $1 is null.
-- Locks: none. Index: the primary key.
select a.id, {moment a.at} as at, a.database_role, meshhook.shown_text(a.actor) as actor, a.source,
    a.action, meshhook.shown_text(a.queue) as queue, meshhook.shown_text(a.filter::text) as filter,
    a.count, meshhook.shown_text(a.details::text) as details, a.operation::text as operation
from meshhook.audit_log a
where $1::text is null
  and ($2::text is null or a.action = $2::text
    or pg_catalog.starts_with(a.action, $2::text || '.'))
  and ($3::text is null or a.actor = $3::text)
  and ($4::timestamptz is null or a.at >= $4::timestamptz)
  and ($5::timestamptz is null or a.at < $5::timestamptz)
  and a.id < $6::bigint and a.id >= $8::bigint
order by a.id desc
limit $7::int
