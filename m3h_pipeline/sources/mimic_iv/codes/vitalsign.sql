CREATE TEMP VIEW typed_vitalsign AS
SELECT
    *,
    as_time(charttime) AS time,
    as_time(charttime) AS available_time,
    coalesce(
        no_visit,
        CASE
            WHEN broken IS NULL
                AND coalesce({% for name in numbers %}as_number({{ name }}), {% endfor %}NULL) IS NULL
                THEN 'no number'
        END
    ) AS reason,
    nullif(concat_ws('; ', not_a_date('charttime', charttime), broken), '') AS parse_errors
FROM visited_vitalsign
