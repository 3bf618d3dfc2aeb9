-- Notes as they were read; what kind they are of, and whether they are wanted, their source says.
CREATE TEMP VIEW notes_of_{{ table }} AS
SELECT
    as_id(hadm_id) AS hadm_id,
    as_id(subject_id) AS subject_id,
    as_text(note_id) AS note_id,
    as_time(charttime) AS time,
    known_since(as_time(storetime), as_time(charttime)) AS available_time,
    text,
    nullif(concat_ws('; ',
        not_a_date('charttime', charttime),
        not_a_date('storetime', storetime),
        broken
    ), '') AS parse_errors,
    source_row
FROM raw_{{ table }}
