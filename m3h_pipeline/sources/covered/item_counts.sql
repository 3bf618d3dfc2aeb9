-- What was counted of each item of a table, of the groups of rows that `count_items` makes.
WITH groups AS (
    FROM {{ counts }} WHERE broken IS NULL
),
spelling AS (
    SELECT
        item,
        coalesce(unit, '') AS unit,
        any_value(normal) AS normal,
        sum(rows) FILTER (content = 'number' AND stay IS NOT NULL) AS rows
    FROM groups
    GROUP BY ALL
),
unit AS (
    SELECT
        item,
        list(unit ORDER BY unit) AS units,
        list(normal ORDER BY unit) AS normals,
        list(coalesce(rows, 0)::BIGINT ORDER BY unit) AS unit_rows
    FROM spelling
    GROUP BY item
),
whole AS (
    SELECT
        item,
        sum(rows)::BIGINT AS rows,
        count(DISTINCT stay) FILTER (content = 'number') AS stays,
        coalesce(sum(rows) FILTER (content = 'number' AND stay IS NOT NULL), 0)::BIGINT AS numbers,
        coalesce(sum(rows) FILTER (content = 'text' AND stay IS NOT NULL), 0)::BIGINT AS texts
    FROM groups
    GROUP BY item
)
SELECT
    coalesce(whole.item, '') AS item, rows, stays, numbers, texts, units, normals, unit_rows
FROM whole
JOIN unit ON unit.item IS NOT DISTINCT FROM whole.item
ORDER BY length(whole.item), whole.item
