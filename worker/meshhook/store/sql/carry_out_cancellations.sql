-- Cancels the jobs of queue $1 that were asked to be cancelled while they ran and wait again, and
-- closes requests for jobs that have ended.
-- Locks: these messages and requests, skipping locked ones. Indexes: see
-- meshhook.carry_out_cancellations.
select meshhook.carry_out_cancellations($1::text)
