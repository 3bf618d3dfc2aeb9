CREATE TEMP TABLE placed_labels AS
SELECT
    sample_id,
    task,
    value,
    label.source_row,
    CASE
        WHEN value IS NULL AND given IS NOT NULL THEN 'value: not a class of the task'
    END AS parse_errors,
    CASE WHEN sample_id IS NULL THEN $none END AS reason
FROM label_rows label
LEFT JOIN (
    SELECT DISTINCT subject_id, prediction_time, min(sample_id) AS sample_id
    FROM sample_rows
    GROUP BY ALL
) sample
    ON sample.subject_id = label.subject_id
    AND sample.prediction_time = label.time
