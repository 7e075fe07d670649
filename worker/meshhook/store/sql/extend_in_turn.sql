-- Extends leases as sql/extend.sql, whose text is $2, does, while no claim of queue $1 runs.
-- Locks: the turn of the queue, shared, and what that statement locks. Index: as there.
select t.position, t.is_extended
from meshhook.extend_in_turn(
    $1::text, $2::text, $3::bigint[], $4::int[], $5::float8[], $6::float8) as t
