-- Drugs that a patient takes at home, below their class, or was given in the emergency department.
CREATE TEMP VIEW typed_{{ table }} AS
SELECT
    *,
    as_time(charttime) AS time,
    as_time(charttime) AS available_time,
    {{ kind | literal }} AS kind,
    {{ code }} AS code,
    coalesce(
        no_visit,
        CASE WHEN broken IS NULL AND as_step(name) IS NULL THEN 'no drug is named' END
    ) AS reason,
    nullif(concat_ws('; ', not_a_date('charttime', charttime), broken), '') AS parse_errors
FROM visited_{{ table }}
