-- Each number of a row of vital signs.
CREATE TEMP VIEW vitalsign_codes AS
SELECT
    placed.* EXCLUDE (temperature, heartrate, resprate, o2sat, sbp, dbp),
    'ed_vital_sign' AS kind,
    part.name AS code,
    as_number(part.number) AS value
FROM placed_vitalsign placed,
    LATERAL (VALUES
        ('temperature', placed.temperature),
        ('heartrate', placed.heartrate),
        ('resprate', placed.resprate),
        ('o2sat', placed.o2sat),
        ('sbp', placed.sbp),
        ('dbp', placed.dbp)
    ) part(name, number)
WHERE placed.reason IS NULL AND as_number(part.number) IS NOT NULL
