-- The lowest id of the next $3 rows of the audit log below $2; null if there are not so many from
-- $4 on. $1 is null. Locks: none. Index: the primary key.
select case when pg_catalog.count(*) = $3::int then pg_catalog.min(n.id) end as id
from (
    select a.id
    from meshhook.audit_log a
    where $1::text is null and a.id < $2::bigint
    order by a.id desc
    limit $3::int
) n
where n.id >= $4::bigint
