-- That a culture was taken, what grew in it and which drugs that resists.
CREATE TEMP VIEW cultures AS
SELECT
    placed.* EXCLUDE (available_time, taken, grown, resisted, stored),
    outcome.kind,
    outcome.code,
    greatest(outcome.known, placed.time) AS available_time
FROM placed_microbiologyevents placed,
    LATERAL (VALUES
        ('culture_taken', coalesce(placed.taken, left(placed.parse_errors, 0)), placed.available_time),
        ('culture_grown', placed.grown, placed.stored),
        ('culture_resistant', placed.resisted, placed.stored)
    ) outcome(kind, code, known)
WHERE placed.reason IS NULL AND outcome.code IS NOT NULL
