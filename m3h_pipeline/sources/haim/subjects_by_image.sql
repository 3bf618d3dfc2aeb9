-- All ICU stays of an admission have the same images, so these say which stays are one patient's;
-- not which admissions.
CREATE TEMP TABLE subjects AS
WITH pairs AS (
    SELECT DISTINCT as_id(haim_id) AS haim_id, img_id, img_charttime
    FROM raw_images
    WHERE haim_id IS NOT NULL AND img_id IS NOT NULL
),
by_image AS (
    SELECT haim_id, min(haim_id) OVER (PARTITION BY img_id, img_charttime) AS first_id
    FROM pairs
)
SELECT haim_id, min(first_id) AS subject_id
FROM by_image
GROUP BY haim_id
