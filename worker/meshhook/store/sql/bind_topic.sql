-- Lets PGMQ route messages whose topic matches $2 to queue $1; returns whether that is new.
-- Locks: the new row. Index: topic_bindings_unique_pattern_queue.
with bound as materialized (
    select exists (
        select from pgmq.topic_bindings b
        where b.queue_name = $1::text and b.pattern = $2::text) as is_bound
)
select not b.is_bound as is_new, pgmq.bind_topic($2::text, $1::text) from bound b
