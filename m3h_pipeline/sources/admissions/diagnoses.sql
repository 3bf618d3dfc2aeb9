-- Each coded diagnosis with what is wrong with it, or the reason why it is out of scope.
CREATE TEMP TABLE diagnoses AS
SELECT
    coded.* EXCLUDE (broken),
    nullif(concat_ws('; ',
        broken,
        CASE WHEN broken IS NULL AND coded.stay_id IS NULL THEN 'hadm_id: empty' END,
        CASE
            WHEN coded.stay_id IS NOT NULL AND stay.stay_id IS NULL
                THEN 'hadm_id: not in admissions'
        END,
        CASE WHEN broken IS NULL AND code IS NULL THEN 'icd_code: empty' END,
        CASE
            WHEN broken IS NULL AND coalesce(version, '') NOT IN ('9', '10')
                THEN 'icd_version: not 9 or 10'
        END
    ), '') AS parse_errors,
    CASE
        WHEN stay.reason IS NOT NULL THEN stay.reason
        WHEN NOT coalesce(stay.has_labels, true)
            THEN 'the stay has no labels: it goes on, or its own row is wrong'
    END AS reason
FROM (
    SELECT
        as_id(hadm_id) AS stay_id,
        as_icd(icd_code) AS code,
        as_id(icd_version) AS version,
        source_row,
        broken
    FROM raw_diagnoses
) coded
LEFT JOIN stays stay USING (stay_id)
