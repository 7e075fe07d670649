-- The statements that build or drop the indexes for keys of queue $1, as its settings are to be.
-- Locks: none.
select s.statement
from meshhook.key_index_statements($1::text, $2::boolean, $3::text, $4::boolean,
    $5::boolean)
    as s (statement)
