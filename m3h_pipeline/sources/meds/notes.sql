-- A note without an id has one from what it is, so that it stays the same wherever it lies.
CREATE TEMP TABLE raw_notes AS
SELECT
    coalesce(note_id, left(md5(concat_ws('|', subject_id, time, code, text)), 16)) AS note_id,
    subject_id,
    hadm_id,
    time AS charttime,
    storetime,
    text,
    argument AS kind,
    NULL::VARCHAR AS broken,
    source_row
FROM note_rows
