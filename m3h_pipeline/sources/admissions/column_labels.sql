-- Labels that the admissions' own columns say, of ``column_tasks`` (task, outcome). A contradiction
-- or an unknown text is a wrong row. ``places`` (place, class_name): where patients went;
-- ``task_classes`` (task, class_name, factor): the classes' numbers.
CREATE TEMP VIEW column_labels AS
WITH stay AS (
    SELECT
        stay_id,
        source_row,
        place,
        date_diff('microsecond', admit_time, discharge_time) / 86400e6 AS days,
        coalesce(died_flag = '1', death_time IS NOT NULL OR place = 'DIED') AS died,
        coalesce(died_flag, place, death_time::VARCHAR) IS NOT NULL AS death_is_known,
        CASE
            WHEN died_flag NOT IN ('0', '1') THEN 'hospital_expire_flag: not 0 or 1'
            WHEN died_flag = '0' AND death_time IS NOT NULL
                THEN 'hospital_expire_flag: contradicts deathtime'
            WHEN died_flag = '0' AND place = 'DIED'
                THEN 'discharge_location: contradicts hospital_expire_flag'
        END AS problem
    FROM stays
    WHERE has_labels
),
outcome AS (
    SELECT
        stay_id,
        source_row,
        'length_of_stay' AS outcome,
        days AS value,
        NULL::VARCHAR AS class_name,
        NULL::VARCHAR AS problem
    FROM stay
    UNION ALL BY NAME
    SELECT
        stay_id,
        source_row,
        'death_in_hospital' AS outcome,
        CASE WHEN death_is_known THEN died::INT::DOUBLE END AS value,
        problem
    FROM stay
    UNION ALL BY NAME
    SELECT
        stay_id,
        source_row,
        'discharge_location' AS outcome,
        CASE WHEN died THEN 'died' ELSE places.class_name END AS class_name,
        coalesce(
            problem,
            CASE
                WHEN place IS NOT NULL AND places.class_name IS NULL
                    THEN 'discharge_location: not a known place'
            END
        ) AS problem
    FROM stay
    LEFT JOIN places USING (place)
)
SELECT
    stay_id,
    task,
    CASE WHEN problem IS NULL THEN coalesce(value, task_classes.factor) END AS value,
    source_row,
    problem AS parse_errors
FROM column_tasks
JOIN outcome USING (outcome)
LEFT JOIN task_classes USING (task, class_name)
WHERE coalesce(value, task_classes.factor) IS NOT NULL OR problem IS NOT NULL
