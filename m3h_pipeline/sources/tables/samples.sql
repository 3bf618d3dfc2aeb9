{% import "checks.sql" as checks %}
{% macro split_number() %}
CASE lower(as_id(split))
    {% for name, number in splits.items() %}
    WHEN '{{ name }}' THEN {{ number }}
    WHEN '{{ number }}' THEN {{ number }}
    {% endfor %}
END
{%- endmacro %}
{% set given = "prediction_time_utc" if "prediction_time" in columns else "NULL::TIMESTAMP" %}
CREATE TEMP TABLE sample_rows AS
SELECT *,
    CASE
        WHEN given_left_out THEN {{ reasons.not_given | literal }}
        WHEN given_utc IS NOT NULL THEN NULL
        WHEN discharge_time >= admit_time AND discharge_time < prediction_time
        THEN {{ reasons.ended | literal }}
        WHEN discharge_time IS NULL
            AND prediction_time
                > max(greatest(admit_time, coalesce(discharge_time, admit_time))) OVER ()
        THEN {{ reasons.not_yet | literal }}
    END AS reason
FROM (
    SELECT
        as_id({{ sample_id }}) AS sample_id,
        as_id(stay_id) AS stay_id,
        as_id(subject_id) AS subject_id,
        admit_time_utc AS admit_time,
        discharge_time_utc AS discharge_time,
        {{ given }} AS given_utc,
        {% if must_be_given %}
        {{ given }} AS prediction_time,
        non_missing(prediction_time) IS NULL AND broken IS NULL AS given_left_out,
        {% else %}
        coalesce(
            {{ given }},
            admit_time_utc + to_microseconds(CAST({{ prediction_seconds }} * 1e6 AS BIGINT))
        ) AS prediction_time,
        false AS given_left_out,
        {% endif %}
        {% if "split" in columns %}
        {{ split_number() }} AS split,
        {% endif %}
        {% for name, type in types.items() %}
        {{ "as_quantity" if type == "DOUBLE" else "as_text" }}({{ name | identifier }})
            AS {{ name | identifier }},
        {% endfor %}
        nullif(concat_ws('; ', broken
            {{ checks.problems_of_times_and_ids(columns, times, ids) }}
            {% for name, type in types.items() if type == "DOUBLE" %}
            , CASE
                WHEN non_missing({{ name | identifier }}) IS NOT NULL
                    AND as_quantity({{ name | identifier }}) IS NULL
                THEN {{ name | literal }} || ': not a number' || raw_of({{ name | identifier }})
            END
            {% endfor %}
            {% if "split" in columns %}
            , CASE
                WHEN as_text(split) IS NOT NULL AND {{ split_number() }} IS NULL
                THEN 'split: not one of {% for name, number in splits.items() -%}
                    {{ number }} ({{ name }}){{ ", " if not loop.last }}
                {%- endfor %}' || raw_of(split)
            END
            {% endif %}
        ), '') AS parse_errors,
        source_row
    FROM {{ checks.with_times("raw_samples", times) }}
)
