-- Each number of a triage, and each complaint; a text such as "unable" is no number.
CREATE TEMP VIEW triage_codes AS
SELECT
    placed.* EXCLUDE (
        temperature, heartrate, resprate, o2sat, sbp, dbp, pain, acuity, chiefcomplaint
    ),
    'ed_triage' AS kind,
    part.name AS code,
    as_number(part.number) AS value
FROM placed_triage placed,
    LATERAL (VALUES
        ('temperature', placed.temperature),
        ('heartrate', placed.heartrate),
        ('resprate', placed.resprate),
        ('o2sat', placed.o2sat),
        ('sbp', placed.sbp),
        ('dbp', placed.dbp),
        ('pain', placed.pain),
        ('acuity', placed.acuity)
    ) part(name, number)
WHERE placed.reason IS NULL AND as_number(part.number) IS NOT NULL
UNION ALL BY NAME
SELECT
    placed.* EXCLUDE (
        temperature, heartrate, resprate, o2sat, sbp, dbp, pain, acuity, chiefcomplaint
    ),
    'ed_complaint' AS kind,
    coalesce(as_step(complaint), '') AS code,
    NULL::DOUBLE AS value
FROM placed_triage placed,
    LATERAL (
        SELECT unnest(string_split(coalesce(placed.chiefcomplaint, ''), ',')) AS complaint
    )
WHERE placed.reason IS NULL
    AND (as_step(complaint) IS NOT NULL OR placed.parse_errors IS NOT NULL)
