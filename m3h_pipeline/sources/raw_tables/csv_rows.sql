-- The row at the end takes the number of rows out of the same, only, pass over the file: row_number
-- keeps the file's order. What is derived is derived of the wanted rows alone.
-- Where rows are counted, the last of a group stands for it, and the row at the end is a group.
CREATE OR REPLACE TABLE {{ wanted.name }} AS
SELECT
    {{ wanted.selected }},
    {% if wanted.is_counted %}count(*) AS rows, max(source_row) AS{% endif %} source_row,
    {{ broken }} AS broken,
    {{ is_end }} AS is_end
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
{{ wanted.joined }}
WHERE ({{ wanted.where }}) OR {{ broken }} IS NOT NULL OR {{ is_end }}
{% if wanted.is_counted %}GROUP BY ALL{% endif %}
