"""SQL that is rendered from a file beside the code."""

from __future__ import annotations

import sys

import duckdb
import jinja2
import pytest

from m3h_pipeline.state.sql import render_sql
from m3h_pipeline.state.steps import code_version


def test_values_are_quoted(tmp_path):
    file = tmp_path / "rows.sql"
    file.write_text("SELECT {{ text | literal }} AS {{ column | identifier }}")
    query = render_sql(file, text="it's", column='a "b"')
    result = duckdb.sql(query)
    assert (result.columns, result.fetchall()) == (['a "b"'], [("it's",)])


def test_templates_of_a_folder_share_macros(tmp_path):
    (tmp_path / "checks.sql").write_text(
        "{% macro not_null(column) %}{{ column }} IS NOT NULL{% endmacro %}"
    )
    file = tmp_path / "rows.sql"
    file.write_text(
        "{% import \"checks.sql\" as checks %}\nSELECT x FROM rows WHERE {{ checks.not_null('x') }}"
    )
    assert render_sql(file) == "SELECT x FROM rows WHERE x IS NOT NULL"


def test_a_value_that_is_missing_is_an_error(tmp_path):
    file = tmp_path / "rows.sql"
    file.write_text("SELECT {{ column }}")
    with pytest.raises(jinja2.UndefinedError, match="column"):
        render_sql(file)


def test_changed_sql_is_changed_code(tmp_path, monkeypatch):
    package = tmp_path / "a_source_with_sql"
    package.mkdir()
    (package / "__init__.py").touch()
    query = package / "rows.sql"
    query.write_text("SELECT 1")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = code_version("a_source_with_sql")
    query.write_text("SELECT 2")
    assert code_version("a_source_with_sql") != before
