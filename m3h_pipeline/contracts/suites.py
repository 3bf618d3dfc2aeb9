"""A contract's rules as a Great Expectations suite: written beside it, and run on rows."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from m3h_pipeline.contracts.model import TABLES, Contract, Rule
from m3h_pipeline.contracts.odcs import load_contract
from m3h_pipeline.state.paths import contracts_folder


def to_suite(contract: Contract) -> dict[str, Any]:
    """The contract as a Great Expectations suite, JSON-ready; this is what
    ``data_contracts/suites`` holds.

    It reads the table's own columns and, beside them, looked-up and computed ones.
    """
    return {"name": contract.table, "expectations": [rule.expectation for rule in contract.rules]}


def write_suites(folder: Path | None = None) -> list[Path]:
    """Write the suite of each contract beside it; returns the files."""
    folder = folder or contracts_folder() / "suites"
    folder.mkdir(exist_ok=True)
    files = []
    for table in TABLES:
        file = folder / f"{table}.json"
        text = json.dumps(to_suite(load_contract(table)), indent=2, ensure_ascii=True)
        file.write_text(f"{text}\n", encoding="utf-8")
        files.append(file)
    return files


def find_broken_rules(view: pl.DataFrame, rules: Sequence[Rule]) -> set[str]:
    """Names of the rules that Great Expectations finds broken, or can't judge."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read when it is imported
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    batch = context.data_sources.pandas_default.read_dataframe(view.to_pandas())
    suite = gx.ExpectationSuite(name="rules", expectations=[rule.expectation for rule in rules])
    # Booleans only: anything more would carry patients' values into results and logs.
    outcome = batch.validate(suite, result_format="BOOLEAN_ONLY")
    configurations = [result.expectation_config for result in outcome.results if not result.success]
    return {
        configuration.meta["name"]
        for configuration in configurations
        if configuration and configuration.meta
    }
