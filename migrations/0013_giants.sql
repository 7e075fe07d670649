-- No message is too large or too odd for the statements that meet it: none reads more of one than
-- its caller can take, nor makes text of it without need. One JSON number of 12 bytes may be text
-- of 131,072 characters, and compression makes 255 bytes of one.
-- Locks: none that others hold. Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

-- * What stands in headers, read without making text of a number

-- The number of attempts with a recorded outcome, from the headers of a message: 0 if there is no
-- such header, or if some other client wrote nonsense under its name. Headers of more than 80,000
-- bytes as they are stored are taken to hold none: only to unpack them may take half a second.
create or replace function meshhook.settled_attempts(headers jsonb) returns integer
language sql stable parallel safe
return case when pg_column_size(headers) > 80000 then 0
    when jsonb_typeof(headers -> 'meshhook-settled') = 'number'
    then least(greatest((headers -> 'meshhook-settled')::numeric, 0), 1000000000)::integer
    else 0 end;

-- A whole number from 0 to a thousand million out of a JSON object; null where there is none, or
-- where some other client wrote nonsense under its name.
create or replace function meshhook.json_count(object jsonb, key text) returns integer
language sql immutable parallel safe
return case when jsonb_typeof(object -> key) = 'number' then
    case when (object -> key)::numeric between 0 and 1000000000
            and (object -> key)::numeric = trunc((object -> key)::numeric)
        then (object -> key)::numeric::integer end
end;

-- How many attempts a message has had, the one that is running included.
create or replace function meshhook.attempts_made(read_ct integer, headers jsonb) returns integer
language sql stable parallel safe
return case when pg_column_size(headers) > 80000 then read_ct else coalesce(
    meshhook.json_count(headers -> 'meshhook-claim', 'attempt') + read_ct
        - meshhook.json_count(headers -> 'meshhook-claim', 'read_ct')
        - coalesce(headers #> '{meshhook-claim,is_given_back}' = 'true'::jsonb, false)::integer,
    read_ct) end;

-- The headers of a message whose lease is given back unused, where its claim left a mark; null
-- where it left none. Then `read_ct` becomes one more instead of one less: a lease that was lost
-- before would hold again otherwise.
create or replace function meshhook.given_back(read_ct integer, headers jsonb) returns jsonb
language sql stable parallel safe
return case when coalesce(pg_column_size(headers), 0) <= 80000
        and meshhook.json_count(headers -> 'meshhook-claim', 'read_ct') = read_ct
    then jsonb_set(headers, '{meshhook-claim}', headers -> 'meshhook-claim'
        || jsonb_build_object('read_ct', read_ct + 1, 'is_given_back', true)) end;

-- * What stands in messages

-- An identifier out of a message, as text that an index can hold; null if there is none, or if only
-- to unpack the message would take long.
create or replace function meshhook.message_id_text(message jsonb, key text) returns text
language sql stable parallel safe
return case
    when pg_column_size(message)
        > case when pg_column_compression(message) is null then 16000000 else 250000 end then null
    when jsonb_typeof(message -> key) = 'string' then left(message ->> key, 200)
    when jsonb_typeof(message -> key) = 'number'
        and abs((message -> key)::numeric) < 1e400::numeric
        and scale((message -> key)::numeric) < 400 then left(message ->> key, 200) end;

-- Whether a document holds numbers whose text is much longer than they are themselves: those beyond
-- 1e400, and those other than 0 that are nearer to it than 1e-400.
create function meshhook.has_long_numbers(document jsonb) returns boolean
language sql immutable parallel safe
return jsonb_path_exists(document, 'strict $.** ? (@.type() == "number").abs() ? (
    @ > 1e400 || (@ > 0 && @ < 1e-400))'::jsonpath, '{}'::jsonb, true);

-- A document as text, if it is short; else null. Takes 0.3 s at the most, or some milliseconds where
-- it is `careful`, which costs more for an ordinary document. An error means that it is not short.
create function meshhook.short_text(document jsonb, is_careful boolean) returns text
language plpgsql stable parallel safe set search_path = pg_catalog, pg_temp as $$
declare
    plain jsonb;
    found_text text;
begin
    if pg_column_size(document) > 65536 then
        return null;
    end if;
    -- In an array it is unpacked, once for all that follows.
    plain := (array[document])[1];
    if pg_column_size(plain) > 65536 or is_careful and meshhook.has_long_numbers(plain) then
        return null;
    end if;
    found_text := plain::text;
    return case when octet_length(found_text) <= 262144 then found_text end;
exception when others then
    return null;
end
$$;

-- A document as text, if that is no more than `max_bytes` long; else null, with why: `is_too_large`,
-- and a size in bytes, which is that of the text where it is known, else of what is stored. Text is
-- not made where it is certain to be longer: a document takes at most four times the room of its
-- text. Takes up to a few seconds, and twice the room of the text that it makes.
create function meshhook.bounded_text(
    document jsonb, max_bytes bigint,
    out body text, out size_bytes bigint, out is_too_large boolean)
language plpgsql stable parallel safe set search_path = pg_catalog, pg_temp as $$
declare
    most_bytes bigint := 4 * max_bytes + 1000;
    plain jsonb;
    number jsonb;
    number_bytes bigint := 0;
begin
    is_too_large := true;
    size_bytes := pg_column_size(document);
    if size_bytes > most_bytes then
        return;
    end if;
    plain := (array[document])[1];
    size_bytes := pg_column_size(plain);
    if size_bytes > most_bytes then
        return;
    end if;
    begin
        -- A 0 may have 16,383 places.
        for number in
            select jsonb_path_query(plain, 'strict $.** ? (@.type() == "number").abs() ? (
                @ > 1e400 || @ < 1e-400)'::jsonpath, '{}'::jsonb, true)
        loop
            number_bytes := number_bytes + octet_length(number::text);
            if number_bytes > max_bytes then
                size_bytes := number_bytes;
                return;
            end if;
        end loop;
    exception when statement_too_complex then
        -- It is nested more deeply than a path can follow.
        null;
    end;
    begin
        body := plain::text;
    exception when program_limit_exceeded then
        size_bytes := 1073741824;
        return;
    end;
    size_bytes := octet_length(body);
    is_too_large := size_bytes > max_bytes;
    if is_too_large then
        body := null;
    end if;
end
$$;
