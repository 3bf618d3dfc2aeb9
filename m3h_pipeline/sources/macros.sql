-- Text to values; null where that fails. Needs in_utc.
--
-- Pandas writes ids beside missing ones as 123.0. Of millions of values nearly all are plain, so
-- that comes first: regular expressions cost more than all else, trim as much as three other looks.
-- Before '!' come the empty text and those that begin with a space.
CREATE MACRO as_text(x) AS
    CASE WHEN x < '!' OR ends_with(x, ' ') THEN nullif(trim(x), '') ELSE x END;

CREATE MACRO as_id(x) AS
    CASE
        WHEN contains(x, '.') THEN regexp_replace(nullif(trim(x), ''), '\.0+$', '')
        ELSE as_text(x)
    END;

-- A code of the ICD: in capitals, without dots and spaces.
CREATE MACRO as_icd(x) AS nullif(upper(replace(replace(x, '.', ''), ' ', '')), '');

CREATE MACRO as_number(x) AS
    CASE WHEN isfinite(TRY_CAST(x AS DOUBLE)) THEN TRY_CAST(x AS DOUBLE) END;

CREATE MACRO as_time(x) AS
    CASE
        WHEN x LIKE '____-__-__ __:__:__' THEN in_utc(TRY_CAST(x AS TIMESTAMP))
        WHEN trim(x) NOT LIKE '____-__-__%' THEN NULL
        WHEN regexp_matches(trim(x), '(Z|[+-][0-9:]+)$', 'i') AND length(trim(x)) > 10
            THEN TRY_CAST(trim(x) AS TIMESTAMPTZ) AT TIME ZONE 'UTC'
        ELSE in_utc(TRY_CAST(trim(x) AS TIMESTAMP))
    END;

-- When a record was known: when it was stored, unless that is missing or before its own time.
CREATE MACRO known_since(stored, taken) AS
    CASE WHEN stored >= taken THEN stored ELSE taken END;

-- When it was known that something lasting began. It is saved again whenever it changes, so that the
-- time when it was stored lies at its end: that it began was known when it began.
CREATE MACRO known_of_lasting(started, ended, stored) AS
    CASE
        WHEN ended > started + INTERVAL 1 MINUTE AND stored >= ended THEN started
        ELSE known_since(stored, started)
    END;

-- What is wrong with a text: null where nothing is.
CREATE MACRO printable(x) AS
    left(regexp_replace(replace(x, '”', '"'), '[\x00-\x1f\x7f]', ' ', 'g'), 60);

CREATE MACRO raw_of(x) AS coalesce(' (raw value “' || printable(x) || '”)', '');

CREATE MACRO not_a_date(name, x) AS
    CASE
        WHEN as_text(x) IS NOT NULL AND as_time(x) IS NULL
            THEN name || ': not a date' || raw_of(x)
    END;

CREATE MACRO not_a_number(name, x) AS
    CASE
        WHEN as_text(x) IS NOT NULL AND as_number(x) IS NULL
            THEN name || ': not a number' || raw_of(x)
    END;

-- A unit as `unit_rules` of units.py spells it.
CREATE MACRO normal_unit(x) AS
    translate(lower(replace(coalesce(x, ''), ' ', '')), 'µμ', 'uu');
