-- Lets PGMQ route no more messages to queue $1 for the pattern $2; returns whether it did.
-- Locks: the row. Index: topic_bindings_unique_pattern_queue.
select pgmq.unbind_topic($2::text, $1::text)
