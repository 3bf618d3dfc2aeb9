-- What follows the name of a drug that was given says what became of it.
CREATE TEMP VIEW typed_codes AS
WITH named AS (
    SELECT
        *,
        CASE
            WHEN argument = 'drug_given' AND contains(rest, '//')
                THEN regexp_replace(rest, '//[^/]*$', '')
            ELSE rest
        END AS name,
        CASE
            WHEN argument = 'drug_given' AND contains(rest, '//')
                THEN regexp_extract(rest, '//([^/]*)$', 1)
        END AS outcome
    FROM code_rows
    WHERE argument <> 'measured_before'
)
SELECT
    hadm_id,
    subject_id,
    as_time(time) AS time,
    known_since(as_time(storetime), as_time(time)) AS available_time,
    argument AS kind,
    as_path(name) AS code,
    as_number(number) AS value,
    CASE
        WHEN as_path(name) IS NULL THEN 'nothing is named'
        WHEN outcome IS NOT NULL AND NOT is_given(outcome) THEN 'not given'
    END AS reason,
    nullif(concat_ws('; ', not_a_date('time', time)), '') AS parse_errors,
    source_row
FROM named
