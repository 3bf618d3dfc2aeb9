-- Measurements; what follows a signal's code is its unit.
CREATE TEMP VIEW measurements AS
SELECT
    subject_id,
    hadm_id,
    time AS charttime,
    storetime,
    argument AS itemid,
    text AS value,
    number AS valuenum,
    coalesce(unit, rest) AS valueuom,
    source_row
FROM signal_rows
WHERE argument IN (SELECT code FROM signals WHERE kind <> 'procedure');

CREATE TEMP TABLE raw_procedures AS
SELECT
    subject_id,
    hadm_id,
    time AS starttime,
    NULL::VARCHAR AS endtime,
    storetime,
    argument AS itemid,
    NULL::VARCHAR AS broken,
    source_row
FROM signal_rows
WHERE argument IN (SELECT code FROM signals WHERE kind = 'procedure')
