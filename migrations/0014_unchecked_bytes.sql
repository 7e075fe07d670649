-- Databases with the encoding SQL_ASCII check no bytes, and the server refuses to send what is not
-- UTF-8 to a client that reads UTF-8: one row with such bytes would refuse all of its statement.
-- Locks: none that others hold. Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

-- A text, or null where it holds bytes that are not UTF-8.
create function meshhook.utf8_text(value text) returns text
language plpgsql stable parallel safe set search_path = pg_catalog, pg_temp as $$
begin
    if getdatabaseencoding() = 'SQL_ASCII'::name then
        perform convert_to(value, 'UTF8');
    end if;
    return value;
exception when character_not_in_repertoire or untranslatable_character then
    return null;
end
$$;

-- A text, with question marks for all that is not ASCII where it holds bytes that are not UTF-8.
create function meshhook.shown_text(value text) returns text
language sql stable parallel safe
return case when getdatabaseencoding() = 'SQL_ASCII'::name
    then coalesce(meshhook.utf8_text(value), regexp_replace(value, '[^\x01-\x7f]', '?', 'g'))
    else value end;

-- As before, and never of bytes that cannot be sent, such as a part of a character.
create or replace function meshhook.message_id_text(message jsonb, key text) returns text
language sql stable parallel safe
return case
    when pg_column_size(message)
        > case when pg_column_compression(message) is null then 16000000 else 250000 end then null
    when jsonb_typeof(message -> key) = 'string'
        then meshhook.shown_text(left(message ->> key, 200))
    when jsonb_typeof(message -> key) = 'number'
        and abs((message -> key)::numeric) < 1e400::numeric
        and scale((message -> key)::numeric) < 400 then left(message ->> key, 200) end;
