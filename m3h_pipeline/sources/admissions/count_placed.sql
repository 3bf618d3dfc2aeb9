-- File, reason, rows, and how many of these got their stay by their time.
SELECT
    file,
    reason,
    sum(rows)::BIGINT,
    sum(rows) FILTER (by_time AND stay_id IS NOT NULL)::BIGINT
FROM rows_of_{{ table }}
GROUP BY file, reason
ORDER BY file, reason
