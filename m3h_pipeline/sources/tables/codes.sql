{% extends "records.sql" %}
{% import "checks.sql" as checks %}
{% block typed_records %}
SELECT
    as_id(stay_id) AS stay_id,
    {{ checks.record_times(columns) }},
    as_text(raw.kind) AS kind,
    as_text(raw.code) AS code,
    {% if "value" in columns %}
    as_quantity(raw.value) AS value,
    {% endif %}
    NULL::VARCHAR AS reason,
    nullif(concat_ws('; ', broken
        {{ checks.problems_of_times_and_ids(columns, times, ids) }}
        {% if "value" in columns %}
        {{ checks.problem_of_value("value", "number", "as_quantity") }}
        {% endif %}
    ), '') AS parse_errors,
    source_row
FROM {{ checks.with_times("raw_codes", times) }} raw
{% endblock %}
