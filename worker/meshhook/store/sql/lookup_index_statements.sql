-- The statements that build or drop the indexes of ids of queue $1, as its setting is to be.
-- Locks: none.
select s.statement
from meshhook.lookup_index_statements($1::text, $2::text[], $3::boolean) as s (statement)
