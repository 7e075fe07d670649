-- The statements that build or drop the index of priorities of queue $1, as its setting is to be.
-- Locks: none.
select s.statement
from meshhook.priority_index_statements($1::text, $2::boolean, $3::boolean) as s (statement)
