-- Each number of a row is a code; a text such as "unable" is no number.
CREATE TEMP VIEW numbers_of_{{ table }} AS
SELECT
    placed.stay_id,
    {{ kind | literal }} AS kind,
    part.name AS code,
    placed.time,
    placed.available_time,
    as_number(part.number) AS value,
    placed.parse_errors,
    placed.source_row
FROM placed_{{ table }} placed,
    LATERAL (VALUES
        {% for name in numbers %}
        ({{ name | literal }}, placed.{{ name }}){{ "," if not loop.last }}
        {% endfor %}
    ) part(name, number)
WHERE placed.reason IS NULL AND as_number(part.number) IS NOT NULL
