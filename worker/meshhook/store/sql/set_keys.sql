-- Turns the keys of a queue, and their order, on or off; the database refuses it without the
-- indexes. Apart from the other settings, since not everybody who may change these may build
-- indexes.
-- Locks: the row. Index: queue_config_queue_key.
update meshhook.queue_config c set keyed = $2::boolean, key_path = $3::text, ordered = $4::boolean,
    on_dead_letter = $5::text
where c.queue = $1::text
