-- Why all samples of a stay, and all rows of a sample, are out of scope; those that are wrong go on
-- to the contract.
CREATE TEMP TABLE stay_scope AS
SELECT stay_id, CASE WHEN bool_and(reason IS NOT NULL) THEN min(reason) END AS scope_reason
FROM sample_rows
WHERE stay_id IS NOT NULL
GROUP BY stay_id;

CREATE TEMP TABLE sample_scope AS
SELECT sample_id, CASE WHEN bool_and(reason IS NOT NULL) THEN min(reason) END AS scope_reason
FROM sample_rows
WHERE sample_id IS NOT NULL
GROUP BY sample_id;
