-- The events of a patient as MIMIC-IV's patients.
CREATE TEMP TABLE raw_patients AS
SELECT
    subject_id,
    sex AS gender,
    CASE WHEN birth IS NOT NULL THEN '0' END AS anchor_age,
    year(moment(birth))::VARCHAR AS anchor_year,
    coalesce(sex_row, birth_row) AS source_row,
    NULL::VARCHAR AS broken
FROM (
    SELECT subject_id, rest AS sex, min(source_row) AS sex_row
    FROM person_rows
    WHERE role = 'sex'
    GROUP BY ALL
) sexes
FULL JOIN (
    SELECT subject_id, min(time) AS birth, min(source_row) AS birth_row
    FROM person_rows
    WHERE role = 'birth'
    GROUP BY ALL
) births USING (subject_id);

INSERT INTO raw_patients
SELECT subject_id, NULL, NULL, NULL, min(source_row), NULL
FROM person_rows
WHERE subject_id IS NOT NULL
    AND subject_id NOT IN (SELECT subject_id FROM raw_patients WHERE subject_id IS NOT NULL)
GROUP BY ALL;

CREATE TEMP TABLE admitted AS
SELECT
    subject_id,
    coalesce(hadm_id, subject_id || '-' || strftime(moment(time), '%Y%m%dT%H%M%S')) AS hadm_id,
    hadm_id IS NULL AS by_time,
    time AS admittime,
    split_part(rest, '//', 1) AS admission_type,
    end_time,
    source_row,
    insurance,
    language,
    marital_status,
    race,
    lead(moment(time)) OVER (PARTITION BY subject_id ORDER BY moment(time)) AS next_time
FROM person_rows
WHERE role = 'admission';

-- Where no column names the stay, a discharge belongs to the admission before it.
CREATE TEMP TABLE discharged AS
SELECT
    admitted.source_row AS admission_row,
    arg_min(discharge.time, discharge.source_row) AS time,
    arg_min(discharge.rest, discharge.source_row) AS place
FROM admitted
JOIN person_rows discharge
    ON discharge.role = 'discharge'
    AND discharge.subject_id = admitted.subject_id
    AND (
        discharge.hadm_id = admitted.hadm_id
        OR (
            discharge.hadm_id IS NULL
            AND admitted.by_time
            AND moment(discharge.time) >= moment(admitted.admittime)
            AND (
                admitted.next_time IS NULL
                OR moment(discharge.time) <= admitted.next_time
            )
        )
    )
GROUP BY ALL;

-- Declared columns that have codes of their own.
CREATE TEMP TABLE coded_columns AS
SELECT subject_id, hadm_id, argument, arg_min(rest, source_row) AS value
FROM person_rows
WHERE role = 'column'
GROUP BY ALL;

CREATE TEMP TABLE stay_columns AS
PIVOT coded_columns ON argument IN ('insurance', 'language', 'marital_status', 'race')
USING first(value)
GROUP BY subject_id, hadm_id;

-- The admissions. A death is that of the stay if the patient left it dead, or where nothing says how
-- they left, if it lies within: the day alone, as MIMIC-IV has for deaths at home, may be that of
-- the discharge.
CREATE TEMP TABLE raw_admissions AS
WITH dead AS (
    SELECT subject_id, min(time) AS death
    FROM person_rows
    WHERE role = 'death'
    GROUP BY ALL
),
ends AS (
    SELECT
        admitted.*,
        coalesce(discharged.time, admitted.end_time) AS dischtime,
        upper(discharged.place) AS discharge_location,
        death
    FROM admitted
    LEFT JOIN discharged ON discharged.admission_row = admitted.source_row
    LEFT JOIN dead USING (subject_id)
),
stays AS (
    SELECT
        *,
        CASE
            WHEN moment(death) < moment(admittime) THEN false
            WHEN discharge_location = 'DIED'
                THEN moment(death) <= moment(dischtime) + INTERVAL 1 DAY
            ELSE discharge_location IS NULL
                AND (dischtime IS NULL OR moment(death) <= moment(dischtime))
        END AS died
    FROM ends
)
SELECT
    stays.subject_id,
    stays.hadm_id,
    admittime,
    dischtime,
    CASE WHEN died THEN death END AS deathtime,
    admission_type,
    discharge_location,
    coalesce(coded.insurance, stays.insurance) AS insurance,
    coalesce(coded.language, stays.language) AS language,
    coalesce(coded.marital_status, stays.marital_status) AS marital_status,
    coalesce(coded.race, stays.race) AS race,
    CASE
        WHEN discharge_location = 'DIED' OR died THEN '1'
        WHEN dischtime IS NOT NULL AND (SELECT count(*) FROM dead) > 0 THEN '0'
    END AS hospital_expire_flag,
    NULL::VARCHAR AS broken,
    stays.source_row
FROM stays
LEFT JOIN stay_columns coded
    ON coded.subject_id = stays.subject_id
    AND coded.hadm_id IS NOT DISTINCT FROM CASE WHEN by_time THEN NULL ELSE stays.hadm_id END
