{% extends "records.sql" %}
{% import "checks.sql" as checks %}
{% block typed_records %}
SELECT
    as_id(stay_id) AS stay_id,
    {{ checks.record_times(columns) }},
    as_text(raw.code) AS code,
    as_quantity(raw.value) * coalesce(rule.factor, 1) AS value,
    CASE WHEN rule.factor IS NULL THEN coalesce(as_text(raw.unit), '') ELSE s.unit END AS unit,
    CASE
        WHEN broken IS NULL AND non_missing(raw.value) IS NULL THEN {{ no_value | literal }}
    END AS reason,
    nullif(concat_ws('; ', broken
        {{ checks.problems_of_times_and_ids(columns, times, ids) }}
        {{ checks.problem_of_value("value", "number", "as_quantity") }}
    ), '') AS parse_errors,
    source_row
FROM {{ checks.with_times("raw_events", times) }} raw
LEFT JOIN signals s ON s.code = as_text(raw.code)
LEFT JOIN unit_rules rule ON rule.code = s.code AND rule.spelling = normal_unit(raw.unit)
{% endblock %}
