-- The rows whose codes have one of these roles; texts, as a table of MIMIC-IV has them.
CREATE TEMP TABLE {{ rows }} AS
SELECT
    records.*,
    roles.role,
    roles.argument,
    nullif(nullif(roles.rest, ''), 'UNK') AS rest
FROM records
JOIN roles USING (code)
WHERE list_contains($roles, roles.role)
