"""Great Expectations and Polars come to the same verdict: they are two translations of one contract."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m3h_pipeline import contracts
from m3h_pipeline.contracts import TABLES, load_contract, row_rules
from tests.contracts.tables import ADMITTED, TASKS, WRONG, Hospital, frame, good, wrong_row

# Values at which a rule may turn, for each type that a rule can meet.
_POOLS: dict[Any, list[Any]] = {
    pl.String: [None, "", "a", "b", "a b", "ü", "\ufffd", "a\n", "\x7f", "x" * 128, "x" * 129],
    pl.Float64: [None, -1e13, -1.0, -0.0, 0.0, 0.5, 0.002, 1.0, 130.0, 130.5, float("inf"), float("-inf")],
    pl.Datetime: [None, *(ADMITTED + timedelta(hours=h) for h in (-1, 0, 1))],
    "integer": [None, -1, 0, 1, 2, 3, 4, 100],
}


def _pool(dtype: pl.DataType) -> list[Any]:
    pool = _POOLS["integer"] if dtype.is_integer() else _POOLS[dtype.base_type()]
    return [value for value in pool if value is None or value >= 0] if dtype.is_unsigned_integer() else pool


def _view(table: str, ingested: Path, samples: Path) -> pl.DataFrame:
    contract, rows = load_contract(table), pl.scan_parquet(ingested)
    return contracts._view(contract, rows, contracts._lookups(contract, rows, samples, TASKS)).collect()


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    return Hospital(tmp_path_factory.mktemp("hospital"))


@pytest.mark.parametrize("table", TABLES)
def test_on_generated_rows(hospital: Hospital, table: str) -> None:
    contract = load_contract(table)
    empty = hospital.folder / f"empty_{table}.parquet"
    frame(table, []).write_parquet(empty)
    schema = _view(table, empty, hospital.samples).schema
    rules = [rule for rule in contract.rules if rule.on_rows]
    columns = list(dict.fromkeys(column for rule in rules for column in rule.columns))
    row = st.fixed_dictionaries({column: st.sampled_from(_pool(schema[column])) for column in columns})

    @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(rows=st.lists(row, min_size=1, max_size=3))
    def agree(rows: list[dict[str, Any]]) -> None:
        view = pl.DataFrame(rows, schema={column: schema[column] for column in columns})
        verdicts = view.select(rule.expression.any().alias(rule.name) for rule in row_rules(contract)).row(
            0, named=True
        )
        assert contracts._failed_expectations(view, rules) == {name for name, wrong in verdicts.items() if wrong}

    agree()


@pytest.mark.parametrize("table", TABLES)
def test_on_each_kind_of_wrong_row(hospital: Hospital, table: str) -> None:
    """What sends a row to quarantine is what Great Expectations finds in the table as it came."""
    rules = [rule for rule in load_contract(table).rules if rule.on_rows]
    ingested = hospital.folder / f"wrong_{table}.parquet"
    rows = good(table, hospital.folder)
    kinds = [(change, rule) for where, change, rule in WRONG if where == table and rule != "unreadable_field"]
    for change, name in [({}, None), *kinds]:
        frame(table, rows if name is None else [*rows, wrong_row(table, change, hospital.folder)]).write_parquet(
            ingested
        )
        view = _view(table, ingested, hospital.samples)
        failed = contracts._failed_expectations(view, rules)
        expressions = view.select(rule.expression.any().alias(rule.name) for rule in row_rules(load_contract(table)))
        assert failed == {rule for rule, wrong in expressions.row(0, named=True).items() if wrong}
        assert (name in failed) if name else not failed
