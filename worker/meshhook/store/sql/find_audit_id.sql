-- From which id on changes were made at $1 or later, if ids follow time: found by halving. Null if
-- there is none. Locks: none. Index: the primary key.
with recursive steps as (
    select pg_catalog.min(a.id) as lowest, pg_catalog.max(a.id) + 1 as highest, 0 as step
    from meshhook.audit_log a
    union all
    select case when found.at < $1::timestamptz then found.id + 1 else s.lowest end,
        case when found.at < $1::timestamptz then s.highest
            else s.lowest + (s.highest - s.lowest) / 2 end,
        s.step + 1
    from steps s
    left join lateral (
        select a.id, a.at from meshhook.audit_log a
        where a.id >= s.lowest + (s.highest - s.lowest) / 2 and a.id < s.highest
        order by a.id
        limit 1
    ) found on true
    where s.lowest < s.highest
)
select s.lowest as id from steps s order by s.step desc limit 1
