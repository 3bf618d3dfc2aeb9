-- What is wrong with a measurement: looked at closely only where something is, since most rows of a
-- hospital are measurements, and nearly all are right.
CREATE MACRO measurement_errors(charttime, storetime, valuenum, value) AS
    CASE
        WHEN as_time(charttime) IS NULL
            OR as_number(valuenum) IS NULL
            OR (as_time(storetime) IS NULL AND storetime IS NOT NULL)
            THEN nullif(concat_ws('; ',
                not_a_date('charttime', charttime),
                not_a_date('storetime', storetime),
                not_a_number('valuenum', valuenum),
                CASE
                    WHEN as_text(valuenum) IS NULL
                        AND as_text(value) <> '___'
                        AND as_number(value) IS NULL
                        THEN 'value: not a number' || raw_of(value)
                END
            ), '')
    END;

-- Whether it has no value; three underscores stand for what was removed to protect the patient.
CREATE MACRO has_no_value(valuenum, value) AS
    CASE
        WHEN as_number(valuenum) IS NULL
            THEN as_text(valuenum) IS NULL AND coalesce(as_text(value), '___') = '___'
        ELSE false
    END
