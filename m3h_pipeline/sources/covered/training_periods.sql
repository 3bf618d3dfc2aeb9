-- When something of a training stay was known in time, by the stay's id and, for what names no stay,
-- by its patient's: a row a key, so that a join with it keeps each record once. Of a stay with several
-- predictions the last counts.
CREATE OR REPLACE TABLE training_periods AS
WITH stay AS (
    SELECT
        stay_id,
        any_value(subject_id) AS subject_id,
        row_number() OVER (ORDER BY stay_id) AS number,
        min(admit_time) AS admit_time,
        max(prediction_time) AS prediction_time
    FROM sample_rows
    JOIN splits USING (subject_id)
    WHERE split = {{ train }} AND parse_errors IS NULL
    GROUP BY stay_id
)
SELECT
    stay_id AS training_key,
    true AS training_by_stay,
    -- Earlier records are quarantined by the contract.
    [{'number': number, 'begins': admit_time - INTERVAL 2 DAY, 'ends': prediction_time}] AS periods
FROM stay
UNION ALL
SELECT
    subject_id,
    false,
    list({'number': number, 'begins': admit_time, 'ends': prediction_time} ORDER BY number)
FROM stay
GROUP BY subject_id;

-- The training stay in whose inputs a record can be.
CREATE OR REPLACE MACRO training_stay(periods, taken, available) AS
    list_filter(periods, lambda period: taken >= period.begins
        AND greatest(taken, available) <= period.ends)[1].number
