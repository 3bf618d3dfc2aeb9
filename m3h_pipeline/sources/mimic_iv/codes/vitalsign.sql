CREATE TEMP VIEW typed_vitalsign AS
SELECT
    *,
    as_time(charttime) AS time,
    as_time(charttime) AS available_time,
    CASE
        WHEN broken IS NOT NULL THEN NULL
        WHEN has_no_visit THEN {{ no_visit | literal }}
        WHEN coalesce({% for name in numbers %}as_number({{ name }}), {% endfor %}NULL) IS NULL
            THEN 'no number'
    END AS reason,
    nullif(concat_ws('; ', not_a_date('charttime', charttime), broken), '') AS parse_errors
FROM visited_vitalsign
