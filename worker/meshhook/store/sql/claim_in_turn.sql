-- Leases as sql/claim_keyed.sql, whose text is $2, does, after other claims of queue $1 have ended.
-- Locks: the turn of the queue, and what that statement locks. Indexes: those of that statement.
select t.* from meshhook.claim_in_turn(
    $1::text, $2::text, $3::float8, $4::timestamptz, $5::int, $6::int, $7::timestamptz, $8::text,
    $9::text) as t
