-- A text as one step of a path: in small letters, without what separates steps.
CREATE MACRO as_step(x) AS
    nullif(left(trim(regexp_replace(lower(x), '[^a-z0-9%.+()-]+', ' ', 'g')), 100), '');

-- A name as a path: its first word of letters, then the whole name.
CREATE MACRO as_path(x) AS
    CASE
        WHEN regexp_extract(as_step(x), '[a-z]{3,}') IN ('', as_step(x)) THEN as_step(x)
        ELSE regexp_extract(as_step(x), '[a-z]{3,}') || '/' || as_step(x)
    END;

-- Whether a drug was given, by what the nurse recorded.
CREATE MACRO is_given(outcome) AS
    regexp_matches(
        coalesce(outcome, ''), '^(Administered|Applied|Started|Restarted|Partial|Delayed Admin)'
    );

-- A code of the ICD as a path: version, chapter by its first characters, category, code.
CREATE MACRO icd_path(code, version) AS
    concat_ws('/',
        'icd' || version,
        left(code, CASE WHEN version = '9' THEN 2 ELSE 1 END),
        left(code, CASE WHEN version = '9' AND code LIKE 'E%' THEN 4 ELSE 3 END),
        code
    )
