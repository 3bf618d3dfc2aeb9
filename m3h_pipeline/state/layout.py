"""Where the steps of a snapshot lie, for what looks for them without an asset's hand-over."""

from __future__ import annotations

from pathlib import Path

SNAPSHOTS = "snapshots"
INGESTED = "ingested"
INPUTS = "inputs"
COHORT = "cohort"
REPORT = "report"
SCORES = "scores"
MONITORING = "monitoring"
LATEST = "latest"
# In the folder of the joint model: the networks of all folds, and those that read the time series
# step by step, where there are any.
NETWORKS = "model"
RECURRENT_NETWORKS = "recurrent"
# Arrays {task: [N] or [N, C]} with a row a sample of the cohort, in the folder of an arm; and, in
# that of the ensemble, what the same mixture with single-task networks predicts, and the trees
# alone.
PREDICTIONS = "predictions.safetensors"
SINGLE_TASK = "single_task.safetensors"
TREES_ALONE = "trees.safetensors"
CALIBRATION = "calibration"
# In the folder of an embedding: what embeds new patients, and what gives their time series step by
# step.
EMBEDDER = "embedder"
SERIES_EMBEDDER = "series_embedder"
# Of a cross-fitted cohort, in the same folder: what calibrates the patients of each fold.
FOLD_CALIBRATION = "calibration_of_folds"
_VALID = "valid_"


def snapshot_folder(out: Path, label: str) -> Path:
    """The folder of one snapshot."""
    return out / SNAPSHOTS / label


def list_snapshot_folders(out: Path) -> list[Path]:
    """Folders of all snapshots, whatever their labels; none that is hidden."""
    parent = out / SNAPSHOTS
    if not parent.is_dir():
        return []
    return sorted(p for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))


def valid_folder(snapshot: Path, table: str) -> Path:
    """The folder of a validated table."""
    return snapshot / f"{_VALID}{table}"


def find_valid_folders(snapshot: Path) -> dict[str, Path]:
    """Table -> folder of the validated tables of a snapshot, in the order of their names."""
    folders = sorted(snapshot.glob(f"{_VALID}*"))
    return {folder.name.removeprefix(_VALID): folder for folder in folders}
