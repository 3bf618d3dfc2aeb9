CREATE OR REPLACE TABLE {{ wanted.name }} AS
SELECT
    {{ wanted.selected }},
    {% if wanted.is_counted %}count(*) AS rows, max(source_row) AS{% endif %} source_row,
    NULL::VARCHAR AS broken
FROM (
    SELECT
        {% for column in columns %}
        CAST({{ column | identifier }} AS VARCHAR) AS {{ column | identifier }},
        {% endfor %}
        file_row_number + 1 AS source_row
    FROM read_parquet({{ file | literal }}, file_row_number = true)
)
{{ wanted.joined }}
WHERE {{ wanted.where }}
{% if wanted.is_counted %}GROUP BY ALL{% endif %}
