-- Each complaint of a triage; a row that can't be read is one without a code.
CREATE TEMP VIEW complaints AS
SELECT
    placed.stay_id,
    'ed_complaint' AS kind,
    coalesce(as_step(complaint), '') AS code,
    placed.time,
    placed.available_time,
    placed.parse_errors,
    placed.source_row
FROM placed_triage placed,
    LATERAL (
        SELECT unnest(string_split(coalesce(placed.chiefcomplaint, ''), ',')) AS complaint
    )
WHERE placed.reason IS NULL
    AND (as_step(complaint) IS NOT NULL OR placed.parse_errors IS NOT NULL)
