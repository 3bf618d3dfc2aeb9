{# Records of a table, each with the reason why it or its stay is out of scope. #}
CREATE TEMP TABLE placed_{{ table }} AS
SELECT typed.* EXCLUDE (reason), coalesce(stay_scope.scope_reason, reason) AS reason
FROM (
    {% block typed_records %}{% endblock %}
) typed
LEFT JOIN stay_scope USING (stay_id);

DROP TABLE raw_{{ table }}
