-- Triage has no time of its own: it is known an hour after the arrival.
CREATE TEMP VIEW typed_triage AS
SELECT
    *,
    arrived AS time,
    arrived + INTERVAL 1 HOUR AS available_time,
    CASE
        WHEN broken IS NOT NULL THEN NULL
        WHEN has_no_visit THEN {{ no_visit | literal }}
        WHEN coalesce({% for name in numbers %}as_number({{ name }}), {% endfor %}NULL) IS NULL
            AND as_step(chiefcomplaint) IS NULL
            THEN 'nothing that can be read'
    END AS reason,
    broken AS parse_errors
FROM visited_triage
