-- Lets PGMQ route messages whose topic matches $2 to queue $1; returns whether that is new.
-- Locks: the new row. Index: topic_bindings_unique_pattern_queue.
select meshhook.bind_topic($1::text, $2::text) as is_new
