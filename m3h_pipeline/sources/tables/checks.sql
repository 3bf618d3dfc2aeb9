{# What the queries of several tables share. Each problem begins with a comma: it follows `broken`
   in what becomes parse_errors. #}

{# A table with, of each of its times, <time>_utc, and <time>_left_out where the local time never
   was. In steps: written as one expression it would grow with each, and planning it takes longer
   than running it. #}
{% macro with_times(table, times) %}
{% if times %}
(
    SELECT * REPLACE (
        {% for time in times %}
        CASE WHEN NOT {{ time }}_left_out THEN {{ time }}_utc END AS {{ time }}_utc
        {{- "," if not loop.last }}
        {% endfor %}
    )
    FROM (
        SELECT *
            {% for time in times %}
            , coalesce(is_left_out({{ time }}, {{ time }}_utc), false) AS {{ time }}_left_out
            {% endfor %}
        FROM (
            SELECT *
                {% for time in times %}
                , as_time({{ time }}) AS {{ time }}_utc
                {% endfor %}
            FROM (
                SELECT * REPLACE (
                    {% for time in times %}
                    non_missing({{ time }}) AS {{ time }}{{ "," if not loop.last }}
                    {% endfor %}
                )
                FROM {{ table }}
            )
        )
    )
)
{% else %}
{{ table }}
{% endif %}
{% endmacro %}

{# A record's time and when it was known: of a bare date, at the end of that day. #}
{% macro record_times(columns) %}
time_utc AS time,
coalesce(
    {% for column in ("available_time", "time") if column in columns %}
    CASE
        WHEN length(raw.{{ column }}) = 10 THEN {{ column }}_utc + INTERVAL 1 DAY
        ELSE {{ column }}_utc
    END{{ "," if not loop.last }}
    {% endfor %}
) AS available_time
{% endmacro %}

{% macro problems_of_times_and_ids(columns, times, ids) %}
{% for column in columns %}
{% if column in times %}
, CASE
    WHEN {{ column }}_left_out
    THEN '{{ column }}: no such local time, the clocks go forward' || raw_of({{ column }})
    WHEN {{ column }} IS NOT NULL AND {{ column }}_utc IS NULL
    THEN '{{ column }}: not a date, write 2026-01-31 14:05:00' || raw_of({{ column }})
END
{% endif %}
{% if column in ids %}
, CASE
    WHEN regexp_matches(trim({{ column }}), '^[0-9][.,][0-9]+[eE][+][0-9]+$')
    THEN '{{ column }}: a spreadsheet wrote it as 1.2E+10, so digits are lost' || raw_of({{ column }})
END
{% endif %}
{% endfor %}
{% endmacro %}

{% macro problem_of_value(column, kind, function) %}
, CASE
    WHEN non_missing(raw.{{ column }}) IS NOT NULL AND {{ function }}(raw.{{ column }}) IS NULL
    THEN '{{ column }}: not a {{ kind }}' || raw_of(raw.{{ column }})
END
{% endmacro %}
