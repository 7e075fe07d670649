-- Lets PGMQ route no more messages to queue $1 for the pattern $2; returns whether it did.
-- Locks: the row. Index: topic_bindings_unique_pattern_queue.
select meshhook.unbind_topic($1::text, $2::text)
