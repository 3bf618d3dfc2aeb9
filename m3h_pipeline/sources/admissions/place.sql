-- A row without hadm_id belongs to the one stay of its patient during which it was taken.
CREATE TEMP TABLE by_time_{{ table }} AS
SELECT record.source_row, min(stay.stay_id) AS stay_id, count(*) AS stays
FROM (
    FROM typed_{{ table }} WHERE hadm_id IS NULL AND reason IS NULL AND time IS NOT NULL
) record
JOIN stays stay
    ON stay.subject_id = record.subject_id
    AND stay.end_is_clear
    AND record.time >= stay.admit_time
    AND (stay.discharge_time IS NULL OR record.time <= stay.discharge_time)
GROUP BY record.source_row;

-- A row of an unknown stay, or with neither hadm_id nor time, goes on: the contract quarantines it.
CREATE TEMP VIEW placed_{{ table }} AS
SELECT
    typed.* EXCLUDE (hadm_id, subject_id, reason, parse_errors),
    coalesce(typed.hadm_id, by_time.stay_id) AS stay_id,
    typed.hadm_id IS NULL AS by_time,
    stay.discharge_time,
    CASE
        WHEN typed.reason IS NOT NULL THEN typed.reason
        WHEN stay.stay_id IS NOT NULL AND coalesce(by_time.stays, 1) = 1 THEN stay.reason
        WHEN by_time.stays > 1 THEN 'no hadm_id, and taken within more than one stay'
        WHEN typed.hadm_id IS NULL AND typed.time IS NOT NULL
            THEN 'no hadm_id, and taken outside any stay'
    END AS reason,
    nullif(concat_ws('; ',
        typed.parse_errors,
        CASE
            WHEN typed.subject_id <> stay.subject_id
                THEN 'subject_id: not the patient of the stay'
        END
    ), '') AS parse_errors
FROM typed_{{ table }} typed
LEFT JOIN by_time_{{ table }} by_time USING (source_row)
LEFT JOIN stays stay ON stay.stay_id = coalesce(typed.hadm_id, by_time.stay_id)
