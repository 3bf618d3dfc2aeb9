"""Great Expectations and Polars judge every row alike: they are two translations of one
contract.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest
from contract_tables import ADMITTED, TASKS, WRONG, Hospital, frame, good, wrong_row
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m3h_pipeline.contracts.model import TABLES, Rule
from m3h_pipeline.contracts.odcs import load_contract
from m3h_pipeline.contracts.row_rules import build_row_rules
from m3h_pipeline.contracts.view import build_lookups, build_view

# Values at which a rule may turn, for each type that a rule can meet.
_POOLS: dict[Any, list[Any]] = {
    pl.String: [
        None,
        "",
        "a",
        "b",
        "a b",
        "ü",
        "a\ufffdb",
        "\n",
        "a\n",
        "\x7f",
        "x" * 128,
        "ü" * 128,
        "x" * 129,
    ],
    pl.Float64: [
        None,
        -1e13,
        -1.0,
        -0.0,
        0.0,
        0.5,
        0.002,
        1.0,
        130.0,
        130.5,
        float("inf"),
        float("-inf"),
    ],
    pl.Datetime: [None, *(ADMITTED + timedelta(hours=h) for h in (-1, 0, 1))],
    pl.List: [None, [], [1.0]],
    "integer": [None, -1, 0, 1, 2, 3, 4, 100],
}


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    return Hospital(tmp_path_factory.mktemp("hospital"))


def _view(hospital: Hospital, table: str, rows: list[dict[str, Any]]) -> pl.DataFrame:
    """The rows with all that the contract's rules see."""
    file = hospital.folder / f"{table}_to_view.parquet"
    frame(table, rows).write_parquet(file)
    contract = load_contract(table)
    lazy = pl.scan_parquet(file)
    lookups = build_lookups(contract, lazy, hospital.samples, TASKS)
    return build_view(contract, lazy, lookups).collect()


def _by_polars(table: str, view: pl.DataFrame) -> dict[str, set[int]]:
    """Rule -> numbers of the rows that break it."""
    verdicts = view.select(
        rule.expression.alias(rule.name) for rule in build_row_rules(load_contract(table))
    )
    assert not any(column.has_nulls() for column in verdicts)
    return {column.name: set(column.arg_true()) for column in verdicts}


def _by_great_expectations(rules: list[Rule], view: pl.DataFrame) -> dict[str, set[int]]:
    """Rule -> numbers of the rows that break it."""
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    columns = list(dict.fromkeys(column for rule in rules for column in rule.columns))
    batch = context.data_sources.pandas_default.read_dataframe(view.select(columns).to_pandas())
    suite = gx.ExpectationSuite(name="rules", expectations=[rule.expectation for rule in rules])
    outcome = batch.validate(suite, result_format="COMPLETE")
    assert not any(
        (result.exception_info or {}).get("raised_exception") for result in outcome.results
    )
    broken_by_rule = {
        result.expectation_config.meta["name"]: set(result.result["unexpected_index_list"])
        for result in outcome.results
    }
    succeeded = {
        result.expectation_config.meta["name"] for result in outcome.results if result.success
    }
    assert succeeded == {name for name, rows in broken_by_rule.items() if not rows}
    return broken_by_rule


def _agree(table: str, view: pl.DataFrame) -> dict[str, set[int]]:
    rules = [rule for rule in load_contract(table).rules if rule.on_rows]
    by_polars = _by_polars(table, view)
    by_gx = _by_great_expectations(rules, view)
    for rule in rules:
        if "unique" in rule.type:
            # Of rows with the same key, Great Expectations counts all, we all but the first.
            firsts = set(
                view.select(pl.struct(rule.columns).is_first_distinct().arg_true()).to_series()
            )
            assert by_polars[rule.name] == by_gx[rule.name] - firsts, rule.name
        else:
            assert by_polars[rule.name] == by_gx[rule.name], rule.name
    return by_polars


@pytest.mark.slow(3)
@pytest.mark.parametrize("table", TABLES)
def test_on_generated_rows(hospital: Hospital, table: str) -> None:
    schema = _view(hospital, table, []).schema
    keys = {
        name
        for rule in load_contract(table).rules
        if "unique" in rule.type
        for name in rule.columns
    }
    draw = random.Random(table)

    def column(name: str, dtype: pl.DataType) -> list[Any]:
        pool = _POOLS["integer"] if dtype.is_integer() else _POOLS[dtype.base_type()]
        pool = [*pool, 1_000_001] if dtype.is_integer() and dtype != pl.Int8 else pool
        if dtype.is_unsigned_integer():
            pool = [value for value in pool if value is None or value >= 0]
        # A key's columns are compared when other rules have seen to it that all are there.
        return draw.choices(
            [value for value in pool if value is not None] if name in keys else pool, k=600
        )

    view = pl.DataFrame(
        {name: column(name, dtype) for name, dtype in schema.items()}, schema=schema
    )
    broken = {name for name, rows in _agree(table, view).items() if rows}
    missing = {f"missing_{name}" for name in keys}
    assert broken | missing >= {rule.name for rule in build_row_rules(load_contract(table))}, (
        "each rule was broken once"
    )


_ANY: dict[Any, st.SearchStrategy[Any]] = {
    pl.String: st.text(st.characters(exclude_categories=["Cs"]), max_size=140),
    pl.Float64: st.floats(allow_nan=False, width=64),
    pl.Datetime: st.datetimes(datetime(1500, 1, 1), datetime(2250, 1, 1)),
    "integer": st.integers(-128, 127),
}


@pytest.mark.parametrize("table", TABLES)
@given(data=st.data())
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
def test_on_any_rows(hospital: Hospital, table: str, data: st.DataObject) -> None:
    """Whatever stands in the cells: text in any script, any number, any time, or nothing."""
    schema = _view(hospital, table, []).schema
    keys = {
        name
        for rule in load_contract(table).rules
        if "unique" in rule.type
        for name in rule.columns
    }

    def cells(name: str, dtype: pl.DataType) -> st.SearchStrategy[list[Any]]:
        kind = "integer" if dtype.is_integer() else dtype.base_type()
        pool = [value for value in _POOLS[kind] if value is not None]
        cell = st.sampled_from(pool) | (
            st.integers(0, 127) if dtype.is_unsigned_integer() else _ANY.get(kind, st.nothing())
        )
        if dtype.is_unsigned_integer():
            cell = cell.filter(lambda value: value >= 0)
        return st.lists(cell if name in keys else st.none() | cell, min_size=12, max_size=12)

    columns = {name: data.draw(cells(name, dtype), label=name) for name, dtype in schema.items()}
    _agree(table, pl.DataFrame(columns, schema=schema))


@pytest.mark.parametrize("table", TABLES)
def test_on_each_kind_of_wrong_row(hospital: Hospital, table: str) -> None:
    """What sends a row to quarantine is what Great Expectations finds in the table as it came."""
    rows = good(table, hospital.folder)
    kinds = [
        (change, rule)
        for where, change, rule in WRONG
        if where == table and rule != "unreadable_field"
    ]
    broken = _agree(
        table,
        _view(
            hospital,
            table,
            rows + [wrong_row(table, change, hospital.folder) for change, _ in kinds],
        ),
    )
    assert not any(number < len(rows) for numbers in broken.values() for number in numbers)
    for number, (_, rule) in enumerate(kinds, len(rows)):
        assert number in broken[rule]
