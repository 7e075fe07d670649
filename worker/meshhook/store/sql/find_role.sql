-- A role of the server by its name $1, and whether it can log in. Locks: none.
-- Index: pg_authid_rolname_index.
select r.oid, r.rolcanlogin as can_login
from pg_catalog.pg_roles r
where r.rolname = $1::text::name
