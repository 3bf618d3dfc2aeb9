-- Earlier stays of each stay's patient that had ended when it began.
CREATE TEMP VIEW earlier_stays AS
SELECT
    stay.stay_id,
    earlier.stay_id AS earlier_id,
    earlier.discharge_time,
    earlier.place,
    date_diff('minute', earlier.admit_time, earlier.discharge_time) / 1440.0 AS days,
    earlier.source_row
FROM stays stay
JOIN stays earlier
    ON earlier.subject_id = stay.subject_id
    AND earlier.stay_id <> stay.stay_id
    AND earlier.discharge_time <= stay.admit_time
    AND earlier.admit_time <= earlier.discharge_time
WHERE stay.reason IS NULL AND earlier.parse_errors IS NULL
