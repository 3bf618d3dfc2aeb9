{% extends "records.sql" %}
{% import "checks.sql" as checks %}
{% block typed_records %}
SELECT
    as_id(stay_id) AS stay_id,
    as_id(image_id) AS image_id,
    {{ checks.record_times(columns) }},
    as_text(raw.view) AS view,
    CASE
        WHEN as_text(path) LIKE '/%' THEN as_text(path)
        ELSE {{ folder | literal }} || '/' || as_text(path)
    END AS path,
    NULL::VARCHAR AS reason,
    nullif(concat_ws('; ', broken
        {{ checks.problems_of_times_and_ids(columns, times, ids) }}
        , CASE
            WHEN as_text(path) NOT LIKE '/%' AND regexp_matches(path, '(^|/)\.\.(/|$)')
            THEN 'path: leads out of the folder'
        END
    ), '') AS parse_errors,
    source_row
FROM {{ checks.with_times("raw_images", times) }} raw
{% endblock %}
