"""The section [model] of m3h.toml: what it changes is trained anew, and recorded."""

import json
from pathlib import Path

import dagster as dg
import pytest
from mlflow import MlflowClient

from m3h_core.data.folds import seed_of_fold
from m3h_pipeline import config as configuration
from m3h_pipeline import defs
from m3h_pipeline.defs.io_manager import step_io_manager, step_name
from m3h_pipeline.defs.resources import Workspace
from m3h_pipeline.features.items import MODALITIES, modality_items
from m3h_pipeline.jobs.launchers import JobLauncher
from m3h_pipeline.state.steps import Step, need_step

pytestmark = pytest.mark.slow(60)

SNAPSHOT = "2026-01-01"
ARMS = ("m3h_model", "single_task_models", "tree_models")


def _materialize(out: Path, assets: list[str]) -> Workspace:
    """Run these assets of the snapshot."""
    workspace = Workspace(out=str(out))
    instance = dg.DagsterInstance.ephemeral()
    instance.add_dynamic_partitions("snapshot", [SNAPSHOT])
    dg.materialize(
        dg.load_assets_from_package_module(defs),
        selection=assets,
        resources={
            "workspace": workspace,
            "launcher": JobLauncher(out=str(out)),
            "io_manager": step_io_manager,
        },
        partition_key=SNAPSHOT,
        instance=instance,
    )
    return workspace


def _train(out: Path) -> dict[str, Step]:
    """The step of each arm, after its asset has run."""
    workspace = _materialize(out, list(ARMS))
    return {arm: need_step(workspace.folder(SNAPSHOT, step_name(arm))) for arm in ARMS}


def _config_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "model.json").read_text())["config"]


def test_a_changed_setting_trains_the_networks_anew_and_is_in_mlflow(demo_run, tmp_path):
    out = demo_run.copy_to(tmp_path / "copy")
    written = configuration.load(out)
    # Without the section all is as with the one that the run has written.
    file = out / "m3h.toml"
    before, _, rest = file.read_text().partition("[model]\n")
    file.write_text(before + rest[rest.index("[training]") :])
    assert configuration.load(out) == written
    kept = _train(out)
    changed = {"hidden": [24, 12], "members": 2, "dropout": 0.1, "weighting": "uncertainty"}
    model = configuration.ModelConfig.model_validate(changed)
    configuration.save(written.model_copy(update={"model": model}), out)
    anew = _train(out)
    assert anew["tree_models"].version == kept["tree_models"].version
    client = MlflowClient(f"sqlite:///{out}/mlflow/mlflow.db")
    runs = [client.get_run(steps["m3h_model"].info["mlflow_run"]) for steps in (kept, anew)]
    assert runs[0].data.params["hidden"] == "[512]"
    in_mlflow = runs[1].data.params
    assert {name: in_mlflow[name] for name in changed} == {
        name: str(value) for name, value in changed.items()
    }
    joint = _config_of(anew["m3h_model"].folder / "model" / "0")
    single = _config_of(next((anew["single_task_models"].folder / "models").iterdir()) / "2")
    assert joint.items() >= changed.items()
    assert single == joint | {"seed": seed_of_fold(joint["seed"], 2)}


def test_without_codes_no_model_sees_them(demo_run, tmp_path):
    out = demo_run.copy_to(tmp_path / "copy")
    workspace = Workspace(out=str(out))
    before = need_step(workspace.folder(SNAPSHOT, "inputs"))
    assert (before.folder / "codes.parquet").exists()
    written = configuration.load(out)
    inputs = configuration.InputsConfig(codes=False)
    configuration.save(written.model_copy(update={"inputs": inputs}), out)
    _materialize(out, [f"{modality}_inputs" for modality in MODALITIES])
    after = need_step(workspace.folder(SNAPSHOT, "inputs"))
    assert after.version != before.version
    assert not (after.folder / "codes.parquet").exists()
    assert set(modality_items("tabular", after.folder)) == {
        *("age", "sex", "admission_type", "insurance", "marital_status")
    }
