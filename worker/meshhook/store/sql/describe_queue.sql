-- Says whether a queue is complete, which optional columns its tables have, and which of them
-- this role would see a part of only. Locks: none.
select
    pg_catalog.to_regclass(pg_catalog.format('pgmq.%I', 'q_' || $1::text)) is not null
        and pg_catalog.to_regclass(
            pg_catalog.format('pgmq.%I', 'q_' || $1::text || '_dlq')) is not null
        and exists (select from meshhook.queue_config c where c.queue = $1::text)
        as is_complete,
    exists (select from pg_catalog.pg_attribute a
            where a.attrelid = pg_catalog.to_regclass(
                pg_catalog.format('pgmq.%I', 'q_' || $1::text))::oid
              and a.attname = 'last_read_at' and not a.attisdropped) as has_last_read_at,
    pg_catalog.getdatabaseencoding() = 'SQL_ASCII'::name as holds_any_bytes,
    pg_catalog.pg_is_in_recovery()
        or pg_catalog.current_setting('transaction_read_only')::boolean as is_read_only,
    meshhook.hidden_tables($1::text) as hidden_tables, current_user::text as role
