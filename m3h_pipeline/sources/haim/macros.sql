-- Nothing is 0, as HAIM writes it where nothing was measured; what is no number is null. Of a lone
-- image's 0/0 there is another value to take.
CREATE MACRO is_nothing(x) AS x IS NULL OR lower(trim(x)) IN ('', 'nan');
CREATE MACRO finite(x) AS
    CASE WHEN isfinite(TRY_CAST(x AS FLOAT)) THEN TRY_CAST(x AS FLOAT) END;
CREATE MACRO haim_number(x) AS CASE WHEN is_nothing(x) THEN 0 ELSE finite(x) END;
CREATE MACRO haim_number_or(x, y) AS CASE WHEN is_nothing(x) THEN haim_number(y) ELSE finite(x) END;
CREATE MACRO hours(x) AS to_microseconds(CAST(as_number(x) * 3600e6 AS BIGINT));
