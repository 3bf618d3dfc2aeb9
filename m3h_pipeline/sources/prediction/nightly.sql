-- The hour of each local day at which the patient is in: from the admission on, and before the end
-- of the stay. A local hour that a change of clocks leaves out is the moment when they change.
CREATE OR REPLACE TEMP TABLE moments AS
WITH latest AS (
    SELECT max(greatest(admit_time, coalesce(end_time, admit_time))) AS time FROM stays_read
),
nights AS (
    SELECT
        source_row,
        admit_time,
        end_time,
        latest.time AS latest,
        unnest(generate_series(
            from_utc(admit_time)::DATE,
            from_utc(coalesce(end_time, latest.time))::DATE,
            INTERVAL 1 DAY
        )) AS night
    FROM stays_read, latest
    WHERE coalesce(date_diff('day', admit_time, end_time) <= $longest, true)
),
instants AS (
    SELECT *, in_utc(night::DATE + $clock::TIME) AS prediction_time FROM nights
)
SELECT source_row, strftime(max(night), '%Y-%m-%d') AS suffix, prediction_time
FROM instants
WHERE prediction_time >= admit_time
    AND coalesce(prediction_time < end_time, prediction_time <= latest)
GROUP BY source_row, prediction_time
