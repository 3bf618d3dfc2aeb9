-- The rows of the label files; a class's name becomes its number.
CREATE TEMP TABLE label_rows AS
SELECT
    label.subject_id::VARCHAR AS subject_id,
    prediction_time AS time,
    label.task,
    coalesce(label.number, label_classes.factor) AS value,
    label.given,
    number_row(files.number, file_row_number) AS source_row
FROM labels_read label
JOIN files ON files.path = filename
LEFT JOIN label_classes ON label_classes.task = label.task AND class_name = label.given;

-- The moments that they name, within a stay of their patient.
CREATE TEMP TABLE given_times AS
SELECT DISTINCT as_id(admission.hadm_id) AS stay_id, label.time
FROM label_rows label
JOIN raw_admissions admission
    ON admission.subject_id = label.subject_id
    AND label.time >= as_time(admission.admittime)
    AND (admission.dischtime IS NULL OR label.time <= as_time(admission.dischtime))
