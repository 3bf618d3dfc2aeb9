"""Two units under one code stop a run before anything is made of them; a line in m3h.toml lets it
go on.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import dagster as dg
import pytest
from tables_folder import hospital, write

from m3h_pipeline import config as configuration
from m3h_pipeline.cli.out_folder import prepare_run
from m3h_pipeline.config import ValidationConfig
from m3h_pipeline.defs.ingestion import ingest
from m3h_pipeline.defs.inputs import as_of_inputs
from m3h_pipeline.defs.io_manager import step_io_manager
from m3h_pipeline.defs.resources import Workspace
from m3h_pipeline.defs.validation import validated_tables
from m3h_pipeline.reports.findings import describe_data_checks
from m3h_pipeline.state.steps import read_step

pytestmark = pytest.mark.slow(10)

DAY = "2026-01-01"
STAYS = 300


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every twentieth lactate is in mg/dL and does not say so; every tenth ferritin is in pmol/L
    and does.
    """
    monkeypatch.setattr(os, "environ", dict(os.environ))
    dice = random.Random(0)
    tables = hospital(STAYS)
    for number, row in enumerate(event for event in tables["events"] if event["code"] == "lactate"):
        row["value"] = round(dice.lognormvariate(0.7, 0.25), 1)
        row["unit"] = ""
        if number % 20 == 0:
            row["value"] = round(row["value"] * 9.008)
        other = {"code": "ferritin", "value": round(dice.lognormvariate(5, 0.4)), "unit": "ug/L"}
        if number % 10 == 0:
            other["unit"] = "pmol/L"
        tables["events"].append(row | other)
    prepare_run(tmp_path / "out", "tables", write(tmp_path / "hospital", tables), None, DAY)
    return tmp_path / "out"


def run(out: Path) -> dict[str, str]:
    """What the checks that stop a run say."""
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("snapshot", [DAY])
        result = dg.materialize(
            [ingest, *validated_tables, as_of_inputs],
            resources={"workspace": Workspace(out=str(out)), "io_manager": step_io_manager},
            partition_key=DAY,
            instance=instance,
            raise_on_error=False,
        )
    checks = result.get_asset_check_evaluations()
    return {
        f"{check.asset_key.to_user_string()} {check.check_name}": str(check.description)
        for check in checks
        if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR
    }


def test_two_units_stop_the_run_until_they_are_accepted(out: Path) -> None:
    stopped = run(out)
    assert list(stopped) == ["valid_events units"]
    words = stopped["valid_events units"]
    assert "as between mmol/L and mg/dL of lactate" in words
    assert "15 of 300 values (5.00%)" in words
    assert "ferritin: 30 of 300 values (10.00%) are in another unit than ug/L (pmol/L)" in words
    assert (
        'add "events units ferritin", "events units lactate" to accepted under [validation] in '
        "m3h.toml" in words
    )
    assert read_step(out / "snapshots" / DAY / "inputs") is None
    assert "two groups of values" in (out / "snapshots" / DAY / "validation.html").read_text()
    assert describe_data_checks(out, DAY)[1].startswith(
        "           - events, units: ferritin: 30 of 300 values"
    )

    config = configuration.load(out)
    accepted = ValidationConfig(accepted=["events units ferritin", "events units lactate"])
    configuration.save(config.model_copy(update={"validation": accepted}), out)
    assert run(out) == {}
    assert read_step(out / "snapshots" / DAY / "inputs") is not None
