-- Turns the priorities of a queue on or off, and sets their targets and the slots that are kept for
-- urgent jobs; the database refuses priorities without their index. Apart from the other settings,
-- since not everybody who may change these may build indexes.
-- Locks: the row. Index: queue_config_queue_key.
update meshhook.queue_config c set prioritized = $2::boolean,
    priority_target_seconds = $3::float8[], urgent_slots = $4::int
where c.queue = $1::text
