{% import "checks.sql" as checks %}
CREATE TEMP TABLE placed_labels AS
SELECT
    sample_id,
    task,
    label AS value,
    parse_errors,
    source_row,
    CASE
        WHEN broken IS NOT NULL THEN NULL
        WHEN problem = 'clustering' THEN 'a clustering needs no labels'
        WHEN non_missing(value) IS NULL THEN {{ no_value | literal }}
        ELSE scope_reason
    END AS reason
FROM (
    SELECT *,
        nullif(concat_ws('; ', broken
            {{ checks.problems_of_times_and_ids(columns, times, ids) }}
            , CASE
                WHEN non_missing(raw.value) IS NULL OR label IS NOT NULL OR problem IS NULL
                THEN NULL
                WHEN problem = 'binary'
                THEN 'value: not 0 or 1' || raw_of(raw.value)
                WHEN problem = 'multiclass'
                THEN 'value: not one of the classes of its task in cohort.yaml' || raw_of(raw.value)
                ELSE 'value: not a number' || raw_of(raw.value)
            END
        ), '') AS parse_errors
    FROM (
        SELECT
            raw.* EXCLUDE (sample_id, task),
            as_id(raw.sample_id) AS sample_id,
            problem,
            scope_reason,
            as_text(raw.task) AS task,
            CASE problem
                WHEN 'binary' THEN (
                    CASE lower(as_text(raw.value))
                        WHEN 'true' THEN 1
                        WHEN 'false' THEN 0
                        ELSE as_quantity(raw.value)
                    END
                )
                WHEN 'multiclass' THEN coalesce(
                    classes.factor,
                    CASE
                        WHEN NOT EXISTS (
                            FROM classes other
                            WHERE other.task = tasks.task AND as_number(other.name) IS NOT NULL
                        )
                        THEN as_quantity(raw.value)
                    END
                )
                ELSE as_quantity(raw.value)
            END AS label
        FROM raw_labels raw
        LEFT JOIN tasks ON tasks.task = as_text(raw.task)
        LEFT JOIN classes
            ON classes.task = tasks.task AND classes.name = lower(as_text(raw.value))
        LEFT JOIN sample_scope ON sample_scope.sample_id = as_id(raw.sample_id)
    ) raw
)
