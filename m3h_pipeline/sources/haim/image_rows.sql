-- A row an image. CheXpert's -1 (uncertain) and empty (not mentioned) are no labels. `place`: rows
-- of the same image and time in an order that does not depend on that of the file; wrong rows have
-- none.
CREATE TEMP TABLE image_rows AS
WITH typed AS (
    SELECT
        as_text(img_id) || '-' || strftime(charttime, '%Y%m%d%H%M%S') AS sample_id,
        as_id(raw.haim_id) AS stay_id,
        subject_id,
        charttime - hours(img_deltacharttime) AS admit_time,
        charttime + hours(img_length_of_stay) AS discharge_time,
        charttime AS prediction_time,
        CASE tabular[2] WHEN 0 THEN 'F' WHEN 1 THEN 'M' END AS sex,
        {% for modality in modalities %}
        {{ modality }},
        {% endfor %}
        {% for task, pathology in pathologies.items() %}
        CASE as_number({{ pathology.lower() | identifier }}) WHEN 1 THEN 1.0 WHEN 0 THEN 0.0 END
            AS {{ task }},
        {% endfor %}
        (as_number(img_length_of_stay) < 48 AND as_number(death_status) = 0)::INT::DOUBLE
            AS discharged_within_48h,
        (as_number(img_length_of_stay) < 48 AND as_number(death_status) = 1)::INT::DOUBLE
            AS died_within_48h,
        nullif(concat_ws('; ',
            broken,
            CASE
                WHEN as_text(img_charttime) IS NOT NULL AND charttime IS NULL
                THEN 'img_charttime: not a date'
            END,
            CASE WHEN broken IS NULL AND as_text(img_id) IS NULL THEN 'img_id: empty' END,
            CASE
                WHEN broken IS NULL AND subject_id IS NULL
                THEN 'haim_id: not among the keys'
            END,
            {% for column in ("img_deltacharttime", "img_length_of_stay") %}
            CASE
                WHEN as_text({{ column }}) IS NOT NULL AND as_number({{ column }}) IS NULL
                THEN '{{ column }}: not a number'
            END,
            {% endfor %}
            CASE
                WHEN as_text(death_status) IS NOT NULL
                    AND as_number(death_status) NOT IN (0, 1) IS NOT FALSE
                THEN 'death_status: not 0 or 1'
            END
            {% for pathology in pathologies.values() %}
            {% set column = pathology.lower() | identifier %}
            , CASE
                WHEN as_text({{ column }}) IS NOT NULL
                    AND as_number({{ column }}) NOT IN (1, 0, -1) IS NOT FALSE
                THEN '{{ pathology }}: not 1, 0 or -1'
            END
            {% endfor %}
            {% for modality, prefixes in modalities.items() %}
            , CASE
                WHEN list_count({{ modality }}) < len({{ modality }})
                THEN '{{ prefixes | join("*, ") }}*: not all numbers'
            END
            {% endfor %}
        ), '') AS parse_errors,
        source_row
    FROM (SELECT *, as_time(img_charttime) AS charttime FROM raw_images) raw
    LEFT JOIN subjects ON subjects.haim_id = as_id(raw.haim_id)
),
placed AS (
    SELECT *,
        CASE
            WHEN parse_errors IS NULL AND sample_id IS NOT NULL
            THEN row_number() OVER (
                PARTITION BY sample_id, parse_errors IS NULL
                ORDER BY TRY_CAST(stay_id AS BIGINT), stay_id, hash({{ modalities | join(", ") }}),
                    hash({{ tasks | join(", ") }}), source_row
            )
        END AS place
    FROM typed
)
SELECT *,
    coalesce(place = 1, false) AS is_first,
    CASE
        WHEN place > 1 AND stay_id
            <> first_value(stay_id) OVER (PARTITION BY sample_id ORDER BY place NULLS LAST)
        THEN 'the same image again, under another ICU stay of its admission'
    END AS reason
FROM placed
