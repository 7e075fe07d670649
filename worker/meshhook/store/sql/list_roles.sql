-- The roles that were made or granted to, and what they are: those that this role may know of. With
-- a role $1 only what it is itself, or by being a member. Locks: none. Index: none, the table is
-- small.
select a.rolname::text as role, r.kind, r.queues
from meshhook.roles r
join pg_catalog.pg_roles a on a.oid = r.role::oid
where $1::oid is null or pg_catalog.pg_has_role($1::oid, a.oid, 'usage'::text)
order by a.rolname, r.kind
