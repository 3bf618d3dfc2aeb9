-- What the items of ``items_seen`` mean, each in the spellings of its unit.
CREATE TEMP TABLE meanings AS
SELECT
    seen.item,
    seen.valueuom,
    signals.code,
    rule.factor,
    CASE WHEN rule.factor IS NULL THEN as_text(seen.valueuom) ELSE signals.unit END AS unit
FROM items_seen seen
JOIN signals USING (item)
LEFT JOIN unit_rules rule
    ON rule.code = signals.code
    AND rule.spelling = normal_unit(seen.valueuom)
