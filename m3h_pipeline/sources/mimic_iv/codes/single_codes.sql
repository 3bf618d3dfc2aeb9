-- A row is one code, at one time{{ "; known when it was stored" if how.stored }}.
CREATE TEMP VIEW typed_{{ table }} AS
SELECT
    as_id(hadm_id) AS hadm_id,
    as_id(subject_id) AS subject_id,
    as_time({{ how.taken }}) AS time,
    {% if how.stored %}
    known_since(as_time({{ how.stored }}), as_time({{ how.taken }}))
    {% else %}
    as_time({{ how.taken }})
    {% endif %}
    AS available_time,
    {{ how.kind | literal }} AS kind,
    {{ how.code }} AS code,
    NULL::DOUBLE AS value,
    CASE
        WHEN broken IS NOT NULL THEN NULL
        {% for condition, reason in how.out_of_scope %}
        WHEN {{ condition }} THEN {{ reason | literal }}
        {% endfor %}
    END AS reason,
    nullif(concat_ws('; ',
        {% for column in how.times %}
        not_a_date({{ column | literal }}, {{ column }}),
        {% endfor %}
        broken
    ), '') AS parse_errors,
    source_row
FROM {{ rows }}
