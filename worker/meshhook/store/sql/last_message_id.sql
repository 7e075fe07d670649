-- The id that the queue has given last; null if none, or if that may not be read. Locks: none.
select pg_catalog.pg_sequence_last_value(
    pg_catalog.pg_get_serial_sequence('{queue_table}', 'msg_id')::regclass) as last_id
