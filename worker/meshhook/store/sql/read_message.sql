-- Reads the message leased as ($1, $2, $3): its body if that is at most $4 bytes of text, and its
-- headers if they are at most $5; else how large they are. No row: the lease is lost.
-- Locks: none. Index: the primary key of the queue's table.
select q.message is null as is_null, {utf8 b.body} as body, b.size_bytes, b.is_too_large,
    {utf8 h.body} as headers, h.size_bytes as headers_bytes,
    h.is_too_large as has_too_large_headers,
    b.body is not null and {utf8 b.body} is null
        or h.body is not null and {utf8 h.body} is null as is_no_text
from {queue_table} q
-- What is stored in more is unpacked nowhere: see meshhook.settled_attempts. What a worker adds to
-- headers is much less than the difference.
cross join lateral meshhook.bounded_text(q.headers,
    case when pg_catalog.pg_column_size(q.headers) > 78000 then 0 else $5::bigint end) h
cross join lateral meshhook.bounded_text(
    case when h.is_too_large then null else q.message end, $4::bigint) b
-- Not a plain =, as in sql/claim.sql.
where q.msg_id = any (array[$1::bigint]) and q.read_ct = $2::int
  and pg_catalog.date_part('epoch'::text, q.enqueued_at) = $3::float8
