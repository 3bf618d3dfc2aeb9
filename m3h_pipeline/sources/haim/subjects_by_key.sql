CREATE TEMP TABLE numbered_keys AS
SELECT
    {{ "as_id(haim_id)" if has_haim_id else "(source_row - 1)::VARCHAR" }} AS haim_id,
    as_id(subject_id) AS subject_id,
    broken,
    source_row
FROM raw_keys;

CREATE TEMP TABLE subjects AS
SELECT haim_id, any_value(subject_id) AS subject_id
FROM numbered_keys
WHERE subject_id IS NOT NULL
GROUP BY haim_id;

CREATE TEMP TABLE key_rows AS
SELECT
    CASE
        WHEN broken IS NOT NULL THEN broken
        WHEN subject_id IS NULL THEN 'no subject_id'
        WHEN haim_id NOT IN (SELECT as_id(haim_id) FROM raw_images WHERE haim_id IS NOT NULL)
        THEN 'no image in the file'
    END AS reason
FROM numbered_keys
