CREATE TEMP VIEW events_of_{{ table }} AS
SELECT
    placed.*,
    meaning.code,
    number * coalesce(meaning.factor, 1) AS value,
    meaning.unit
FROM placed_{{ table }} placed
LEFT JOIN meanings meaning
    ON meaning.item = placed.item
    AND meaning.valueuom IS NOT DISTINCT FROM placed.valueuom
