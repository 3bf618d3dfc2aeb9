"""The contract files: valid by the standard, translated as a whole, and clear about mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from open_data_contract_standard.model import OpenDataContractStandard

from m3h_pipeline.contracts.model import TABLES
from m3h_pipeline.contracts.odcs import load_contract
from m3h_pipeline.contracts.row_rules import build_row_rules
from m3h_pipeline.contracts.suites import to_suite, write_suites
from m3h_pipeline.errors import InputError
from m3h_pipeline.state.paths import contracts_folder, dagster_template


@pytest.mark.parametrize("table", TABLES)
def test_contracts_are_read_by_the_standards_own_package(table: str) -> None:
    read = OpenDataContractStandard.from_file(str(contracts_folder() / f"{table}.odcs.yaml"))
    assert (read.id, read.schema_[0].name) == (f"m3h-{table}", table)


@pytest.mark.parametrize("table", TABLES)
def test_every_rule_reaches_great_expectations_and_every_row_rule_polars(table: str) -> None:
    contract = load_contract(table)
    names = [expectation["meta"]["name"] for expectation in to_suite(contract)["expectations"]]
    assert names == [rule.name for rule in contract.rules]
    on_rows = [rule.name for rule in build_row_rules(contract)]
    assert on_rows == [rule.name for rule in contract.rules if rule.on_rows]
    assert len(on_rows) >= 10
    assert all(rule.description.endswith(".") for rule in contract.rules)


def test_committed_suites_are_what_the_translator_writes(tmp_path: Path) -> None:
    for file in write_suites(tmp_path):
        committed = contracts_folder() / "suites" / file.name
        assert file.read_text() == committed.read_text(), (
            "run python -m m3h_pipeline.contracts and commit the result"
        )
    assert {file.stem for file in (contracts_folder() / "suites").iterdir()} == set(TABLES)


@pytest.mark.slow(4)
@pytest.mark.parametrize("table", TABLES)
def test_committed_suites_load_in_great_expectations(table: str) -> None:
    import great_expectations as gx

    loaded = gx.ExpectationSuite(**to_suite(load_contract(table)))
    assert len(loaded.expectations) == len(load_contract(table).rules)


def _first(contract: dict) -> dict:
    return contract["schema"][0]


def _bound(contract: dict, kind: str, pop: bool = False) -> dict:
    """The implementation of a bound of the table as a whole."""
    rules = _first(contract)["quality"]
    rule = next(rule for rule in rules if rule["implementation"]["type"] == kind)
    if pop:
        rules.remove(rule)
    return rule["implementation"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("id"), "'id' is a required property"),
        (
            lambda c: _first(c)["properties"][0].update(requird=True),
            r"properties\[0\].*'requird' was unexpected",
        ),
        (lambda c: _first(c).update(name="labs"), "must hold one table, named events"),
        (
            lambda c: _first(c)["properties"][0].update(physicalType="TEXT"),
            "stay_id: physicalType must be one of",
        ),
        (
            lambda c: _first(c)["properties"][0].update(relationships=[{"to": "wards.id"}]),
            "there is no wards.id",
        ),
        (
            lambda c: _first(c)["quality"][0].update(engine="great-expectations"),
            "unknown_unit: .*greatExpectations",
        ),
        (
            lambda c: _first(c)["quality"][0].update(severity="fatal"),
            "unknown_unit: severity must be error or warning",
        ),
        (lambda c: _first(c)["quality"][0].pop("description"), "description is missing"),
        (
            lambda c: _first(c)["quality"][0]["implementation"].update(type="expect_luck"),
            "expect_luck is not transl",
        ),
        (
            lambda c: _first(c)["quality"][0]["implementation"]["kwargs"].update(column_A="ward"),
            "no column ward",
        ),
        (
            lambda c: _first(c)["quality"][0]["implementation"]["kwargs"].update(mostley=1),
            "unknown_unit: .*mostley",
        ),
        (
            lambda c: _first(c)["quality"][0]["implementation"]["kwargs"].update(
                ignore_row_if="never"
            ),
            "ignore_row_if",
        ),
        (
            lambda c: _first(c)["quality"][1].update(name="unknown_unit"),
            "there are two rules of this name",
        ),
        (
            lambda c: _bound(c, "quarantined_share", pop=True),
            "there must be a quality rule with engine m3h",
        ),
        (
            lambda c: _bound(c, "volume_change")["kwargs"].pop("max_ratio"),
            "volume_change: max_ratio: volume_change takes",
        ),
        (
            lambda c: _bound(c, "volume_change")["kwargs"].update(maximum=2),
            "volume_change: maximum: volume_change takes",
        ),
        (
            lambda c: _bound(c, "distribution_shift")["kwargs"].update(by="ward"),
            "distribution_shift: .*no column ward",
        ),
        (
            lambda c: _bound(c, "distribution_shift").update(type="drift"),
            "engine m3h knows the types .*, not drift",
        ),
        (
            lambda c: c["slaProperties"][0].update(element="events.code"),
            "events.code is no time column of events",
        ),
        (lambda c: c["slaProperties"][0].update(unit="h"), "latency as a whole number with unit d"),
        (
            lambda c: _first(c)["customProperties"][1]["value"].update(latest_time="bed_time + 1"),
            "no column bed_time",
        ),
        (
            lambda c: _first(c)["customProperties"][1]["value"].update(latest_time="time +"),
            "latest_time: time \\+",
        ),
        (lambda c: _first(c)["customProperties"].pop(0), "verifiedRows is missing"),
    ],
)
def test_a_mistake_in_a_contract_is_named_with_its_place(
    tmp_path: Path, change, message: str
) -> None:
    contract = yaml.safe_load((contracts_folder() / "events.odcs.yaml").read_text())
    change(contract)
    file = tmp_path / "events.odcs.yaml"
    file.write_text(yaml.safe_dump(contract))
    with pytest.raises(InputError, match=message) as error:
        load_contract("events", tmp_path)
    assert str(file) in str(error.value)


def test_a_contract_that_is_absent_or_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"events\.odcs\.yaml is not there"):
        load_contract("events", tmp_path)
    (tmp_path / "events.odcs.yaml").write_text("schema: [")
    with pytest.raises(InputError, match="is not valid YAML"):
        load_contract("events", tmp_path)
    (tmp_path / "events.odcs.yaml").write_text("just a word")
    with pytest.raises(InputError, match="needs lines like `key: value`"):
        load_contract("events", tmp_path)


def test_shipped_files_are_found() -> None:
    assert contracts_folder().name == "data_contracts"
    assert dagster_template().name == "dagster.yaml"
