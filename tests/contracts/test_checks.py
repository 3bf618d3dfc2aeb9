"""Checks against the last snapshot, through Dagster: a lab that vanishes stops a run until it is
back or accepted.
"""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from m3h_pipeline import config as configuration
from m3h_pipeline.cli.out_folder import prepare_run
from m3h_pipeline.config import ValidationConfig
from m3h_pipeline.contracts.model import TABLES
from m3h_pipeline.contracts.validation import list_checks
from m3h_pipeline.defs.ingestion import ingest
from m3h_pipeline.defs.inputs import as_of_inputs
from m3h_pipeline.defs.io_manager import step_io_manager
from m3h_pipeline.defs.resources import Workspace
from m3h_pipeline.defs.validation import validated_tables
from m3h_pipeline.demo import write_demo_hospital
from m3h_pipeline.state.steps import read_step

pytestmark = pytest.mark.slow(30)

SODIUM = "50983"


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    write_demo_hospital(tmp_path / "hospital", 150, 0)
    prepare_run(tmp_path / "out", "mimic-iv", tmp_path / "hospital", None, "2026-01-01")
    return tmp_path / "out"


def test_a_lab_that_vanishes(out: Path) -> None:
    labs = out.parent / "hospital" / "hosp" / "labevents.csv.gz"
    whole = labs.read_bytes()
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("snapshot", [f"2026-01-0{n}" for n in range(1, 5)])

        def run(day: str) -> tuple[bool, dict[str, str]]:
            """Whether the inputs were made, and what failed checks say."""
            result = dg.materialize(
                [ingest, *validated_tables, as_of_inputs],
                resources={
                    "workspace": Workspace(out=str(out)),
                    "io_manager": step_io_manager,
                },
                partition_key=day,
                instance=instance,
                raise_on_error=False,
            )
            checks = result.get_asset_check_evaluations()
            names = {(c.asset_key.to_user_string(), c.check_name) for c in checks}
            assert names == {(f"valid_{t}", check) for t in TABLES for check in list_checks(t)} | {
                (table, "lineage") for table in TABLES
            }
            states = {
                str(c.metadata["state"].value)
                for c in checks
                if c.description.startswith("Not judged: ")
            }
            assert states == {"not judged"}
            failed = {
                f"{c.asset_key.to_user_string()} {c.check_name}": c.description
                for c in checks
                if not c.passed
            }
            return read_step(out / "snapshots" / day / "inputs") is not None, failed

        assert run("2026-01-01") == (True, {})
        rows = pl.read_csv(labs, infer_schema=False, null_values=[])
        rows.filter(pl.col("itemid") != SODIUM).write_csv(labs.with_suffix(""))
        labs.unlink()
        made, failed = run("2026-01-02")
        assert not made
        assert list(failed) == ["valid_events distribution"]
        words = failed["valid_events distribution"]
        assert words.startswith("Against the snapshot of 2026-01-01: sodium has vanished (")
        entry = "2026-01-02 events distribution"
        assert f'add "{entry}" to accepted under [validation] in m3h.toml' in words
        page = (out / "snapshots" / "2026-01-02" / "validation.html").read_text()
        assert "sodium has vanished" in page

        # The broken snapshot is nothing to compare with.
        labs.with_suffix("").unlink()
        labs.write_bytes(whole)
        assert run("2026-01-03") == (True, {})

        labs.unlink()
        rows.filter(pl.col("itemid") != SODIUM).write_csv(labs.with_suffix(""))
        config = configuration.load(out)
        accepted = ValidationConfig(accepted=["2026-01-04 events distribution"])
        configuration.save(config.model_copy(update={"validation": accepted}), out)
        assert run("2026-01-04") == (True, {})
