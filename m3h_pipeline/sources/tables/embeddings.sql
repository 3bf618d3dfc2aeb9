{% import "checks.sql" as checks %}
CREATE TEMP TABLE placed_embeddings AS
SELECT typed.*, scope_reason AS reason
FROM (
    SELECT
        as_id(sample_id) AS sample_id,
        as_text(modality) AS modality,
        as_vector(vector) AS vector,
        nullif(concat_ws('; ', broken
            {{ checks.problems_of_times_and_ids(columns, times, ids) }}
            {{ checks.problem_of_value(
                "vector", "list of finite numbers such as [0.5, 1.25]", "as_vector"
            ) }}
        ), '') AS parse_errors,
        source_row
    FROM raw_embeddings raw
) typed
LEFT JOIN sample_scope USING (sample_id)
