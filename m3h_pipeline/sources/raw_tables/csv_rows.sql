-- The row at the end takes the number of rows out of the same, only, pass over the file: row_number
-- keeps the file's order. What is derived is derived of the wanted rows alone.
CREATE OR REPLACE TABLE {{ name }} AS
SELECT {{ selected }}, source_row, {{ broken }} AS broken, {{ is_end }} AS is_end
FROM (
    SELECT *, row_number() OVER () AS source_row
    FROM read_csv(
        {{ file | literal }},
        columns = {
            {%- for column in columns %}{{ column | literal }}: 'VARCHAR'
            {%- if not loop.last %}, {% endif %}{% endfor -%}
        },
        auto_detect = false, header = true, delim = ',', quote = '"', escape = '"',
        max_line_size = {{ longest_row }}
    )
)
WHERE ({{ where }}) OR {{ broken }} IS NOT NULL OR {{ is_end }}
