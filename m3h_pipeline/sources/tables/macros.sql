-- What programs write where there is nothing, as null. DuckDB plans a join for each IN of so many
-- values: of 50 features it planned for minutes, of 1,000 it crashed.
CREATE TEMP MACRO non_missing(x) AS CASE
    WHEN NOT list_contains(['', 'na', 'n/a', 'nan', 'nat', 'null', 'none'], lower(trim(x)))
    THEN trim(x)
END;

CREATE TEMP MACRO as_quantity(x) AS as_number(non_missing(x));

-- A clock that goes forward leaves local times out.
CREATE TEMP MACRO is_left_out(x, utc) AS
    from_utc(utc) <> TRY_CAST(x AS TIMESTAMP)
    AND NOT (regexp_matches(x, '(Z|[+-][0-9:]+)$', 'i') AND length(x) > 10);

CREATE TEMP MACRO as_vector(x) AS CASE
    WHEN list_aggregate(
        list_transform(TRY_CAST(x AS FLOAT[]), lambda v: coalesce(isfinite(v), false)), 'bool_and'
    )
    THEN TRY_CAST(x AS FLOAT[])
END;
