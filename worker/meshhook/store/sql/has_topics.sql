-- Whether the installed PGMQ routes messages by topics.
-- Locks: none. Index: none.
select pg_catalog.to_regclass('pgmq.topic_bindings') is not null
