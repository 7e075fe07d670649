-- Notes the success of jobs of keys $2, started at $3, that handlers completed in transactions of
-- their own. $1 is the queue. Returns the breakers that it closed, null if none.
-- Locks: the rows of keys that have failures, in their order. Index: breakers_pkey.
select meshhook.record_key_successes($1::text, $2::text[], $3::float8[]) as closed
