-- MIMIC-CXR-JPG's images. studydate 21800506, studytime 93012.5 for 9:30:12; either may carry
-- pandas' .0
CREATE OR REPLACE TEMP VIEW typed_cxr AS
WITH typed AS (
    SELECT
        as_id(subject_id) AS subject_id,
        as_id(study_id) AS study_id,
        as_text(dicom_id) AS dicom_id,
        as_text(viewposition) AS view,
        as_id(studydate) AS day,
        as_text(studytime) AS clock,
        in_utc(try_strptime(
            as_id(studydate)
                || lpad(floor(as_number(studytime))::BIGINT::VARCHAR, 6, '0'),
            '%Y%m%d%H%M%S'
        )) AS taken,
        broken,
        source_row
    FROM raw_cxr
)
SELECT
    NULL::VARCHAR AS hadm_id,
    subject_id,
    dicom_id AS image_id,
    taken AS time,
    taken AS available_time,
    view,
    concat_ws('/',
        image_folder(),
        'p' || left(subject_id, 2),
        'p' || subject_id,
        's' || study_id,
        dicom_id || '.jpg'
    ) AS path,
    NULL::VARCHAR AS reason,
    nullif(concat_ws('; ',
        CASE
            WHEN taken IS NULL AND (day IS NOT NULL OR clock IS NOT NULL)
                THEN 'studydate, studytime: not a date'
        END,
        broken
    ), '') AS parse_errors,
    source_row
FROM typed
