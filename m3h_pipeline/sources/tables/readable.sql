{% import "checks.sql" as checks %}
SELECT
    {% for column, conversion in conversions.items() %}
    count(non_missing({{ column }})), count({{ conversion }}){{ "," if not loop.last }}
    {% endfor %}
FROM {{ checks.with_times("raw_" ~ table, times) }}
