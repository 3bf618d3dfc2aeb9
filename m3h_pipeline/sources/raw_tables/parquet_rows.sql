CREATE OR REPLACE TABLE {{ name }} AS
SELECT {{ selected }}, source_row, NULL::VARCHAR AS broken
FROM (
    SELECT
        {% for column in columns %}
        CAST({{ column | identifier }} AS VARCHAR) AS {{ column | identifier }},
        {% endfor %}
        file_row_number + 1 AS source_row
    FROM read_parquet({{ file | literal }}, file_row_number = true)
)
WHERE {{ where }}
