-- One row a patient; where an id is there twice, the first counts, and if they differ its stays are
-- wrong rows.
CREATE TEMP TABLE people AS
SELECT
    as_id(subject_id) AS subject_id,
    arg_min(as_text(gender), source_row) AS sex,
    arg_min(as_number(anchor_age), source_row) AS anchor_age,
    arg_min(as_number(anchor_year), source_row) AS anchor_year,
    min(source_row) AS source_row,
    nullif(concat_ws('; ',
        arg_min(nullif(concat_ws('; ',
            not_a_number('anchor_age', anchor_age),
            not_a_number('anchor_year', anchor_year),
            broken
        ), ''), source_row),
        CASE
            WHEN count(DISTINCT (gender, anchor_age, anchor_year)) > 1
                THEN 'subject_id: patients contradict'
        END
    ), '') AS problem
FROM raw_patients
WHERE subject_id IS NOT NULL
GROUP BY ALL;

CREATE TEMP TABLE stays_read AS
WITH typed AS (
    SELECT
        as_id(hadm_id) AS stay_id,
        as_id(subject_id) AS subject_id,
        as_time(admittime) AS admit_time,
        as_time(deathtime) AS death_time,
        -- For some who died, MIMIC-IV has the day alone as dischtime: midnight, before the death.
        greatest(as_time(dischtime), as_time(deathtime)) AS discharge_time,
        as_text(admission_type) AS admission_type,
        as_text(insurance) AS insurance,
        as_text(language) AS language,
        as_text(marital_status) AS marital_status,
        as_text(race) AS race,
        upper(as_text(discharge_location)) AS place,
        as_id(hospital_expire_flag) AS died_flag,
        as_text(dischtime) IS NULL OR as_time(dischtime) IS NOT NULL AS end_is_clear,
        source_row,
        broken,
        nullif(concat_ws('; ',
            not_a_date('admittime', admittime),
            not_a_date('dischtime', dischtime),
            not_a_date('deathtime', deathtime)
        ), '') AS errors
    FROM raw_admissions
)
SELECT
    typed.* EXCLUDE (errors, broken),
    people.sex,
    people.anchor_age + year(typed.admit_time) - people.anchor_year AS age,
    nullif(concat_ws('; ',
        broken,
        errors,
        people.problem,
        CASE
            WHEN typed.subject_id IS NOT NULL AND people.subject_id IS NULL
                THEN 'subject_id: not in patients'
        END,
        CASE WHEN death_time < admit_time THEN 'deathtime: before admittime' END
    ), '') AS parse_errors,
    coalesce(death_time, discharge_time) AS end_time,
    -- A stay that ends before it begins is not short but wrong.
    admit_time IS NULL OR coalesce(death_time, discharge_time) < admit_time IS TRUE AS times_wrong
FROM typed
LEFT JOIN people USING (subject_id)
