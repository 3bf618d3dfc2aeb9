{% extends "records.sql" %}
{% import "checks.sql" as checks %}
{% block typed_records %}
SELECT
    as_id(stay_id) AS stay_id,
    as_id(note_id) AS note_id,
    {{ checks.record_times(columns) }},
    as_text(raw.kind) AS kind,
    text,
    CASE
        WHEN derived.kind IS NOT NULL
        THEN 'a report that labels come from: ' || derived.tasks
    END AS reason,
    nullif(concat_ws('; ', broken
        {{ checks.problems_of_times_and_ids(columns, times, ids) }}
    ), '') AS parse_errors,
    source_row
FROM {{ checks.with_times("raw_notes", times) }} raw
LEFT JOIN (
    SELECT kind, string_agg(task, ', ' ORDER BY task) AS tasks FROM derived GROUP BY kind
) derived ON derived.kind = lower(as_text(raw.kind))
{% endblock %}
