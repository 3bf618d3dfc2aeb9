"""An out-folder with every step that holds patients, without a run: what is learned is random."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
from safetensors.numpy import load_file
from traces import list_files

from m3h_core import Cohort
from m3h_pipeline.config import open_source
from m3h_pipeline.contracts.model import TABLES
from m3h_pipeline.contracts.split import split_rows
from m3h_pipeline.erasure.forgotten import FILE, Forgotten
from m3h_pipeline.erasure.tables import leave_out
from m3h_pipeline.features.as_of import write_inputs
from m3h_pipeline.features.assemble import write_cohort
from m3h_pipeline.reports.publish import publish
from m3h_pipeline.sources import Settings
from m3h_pipeline.state.data_files import write_arrays, write_json
from m3h_pipeline.state.lineage import read_whole_lineage
from m3h_pipeline.state.steps import Step, produce

DAY = "2026-01-01"
MODALITIES = ("tabular", "timeseries", "language", "vision")


def _extract(hospital: Path, out: Path):
    def build(to: Path):
        facts = open_source("mimic-iv", hospital).extract(to, Settings())
        leave_out(to, Forgotten.load(out))
        return facts

    return build


def make_snapshot(hospital: Path, out: Path, day: str) -> None:
    """Make every step of a snapshot that holds patients, as the pipeline does."""
    root = out / "snapshots" / day
    draw = np.random.default_rng(0)

    def make(name: str, build, *made_from: Step) -> Step:
        return produce(root / name, name, build, [step.version for step in made_from])

    ingested = make("ingested", _extract(hospital, out))
    valid: dict[str, Step] = {}
    for table in (table for table in TABLES if (ingested.folder / f"{table}.parquet").exists()):

        def split(to: Path, table: str = table) -> None:
            for beside in {"samples": ["columns.json"], "labels": ["tasks.json"]}.get(table, []):
                shutil.copy(ingested.folder / beside, to / beside)
            samples = valid["samples"].folder if "samples" in valid else None
            split_rows(
                table,
                ingested.folder / f"{table}.parquet",
                to / f"{table}.parquet",
                to / "quarantine.parquet",
                samples=samples and samples / "samples.parquet",
                quarantined_samples=samples and samples / "quarantine.parquet",
                tasks=[],
            )

        valid[table] = make(f"valid_{table}", split, ingested)
    inputs = make(
        "inputs",
        lambda to: write_inputs({name: s.folder for name, s in valid.items()}, to),
        *valid.values(),
    )
    n = len(pl.read_parquet(inputs.folder / "samples.parquet"))

    def embed(to: Path) -> None:
        arrays = {
            "vectors": draw.normal(size=(n, 3)).astype(np.float32),
            "present": draw.random(n) < 0.8,
        }
        write_arrays(to / "embedding.safetensors", arrays)

    embedded = {modality: make(f"{modality}_embedding", embed, inputs) for modality in MODALITIES}
    folders = {modality: step.folder for modality, step in embedded.items()}
    cohort = make(
        "cohort",
        lambda to: write_cohort(valid["samples"].folder, valid["labels"].folder, folders, to),
        *embedded.values(),
    )

    def predict(to: Path) -> None:
        write_arrays(
            to / "predictions.safetensors",
            {"a": draw.normal(size=n), "b": draw.normal(size=(n, 2))},
        )

    def predict_twice(to: Path) -> None:
        for name in ("predictions.safetensors", "single_task.safetensors"):
            write_arrays(to / name, {"a": draw.normal(size=n)})

    arms = [
        make(arm, predict, cohort) for arm in ("m3h_model", "single_task_models", "tree_models")
    ]
    arms.append(make("ensemble_model", predict_twice, cohort, *arms))

    def report(to: Path) -> None:
        ids = Cohort.load(cohort.folder).sample_ids
        pl.DataFrame({"sample_id": list(ids), "prediction": draw.random(n)}).write_parquet(
            to / "predictions.parquet"
        )
        (to / "quarantine").mkdir(mode=0o700)
        for table, step in valid.items():
            for ending in ("parquet", "csv"):
                shutil.copy(
                    step.folder / f"quarantine.{ending}", to / "quarantine" / f"{table}.{ending}"
                )
        read_whole_lineage(
            ingested.folder, {name: s.folder for name, s in valid.items()}
        ).write_parquet(to / "lineage.parquet")
        write_json(to / "metrics.json", {"snapshot": day})

    publish(out, make("report", report, ingested, *valid.values(), *arms).folder)


def keys_of(whole: Path, patient: str) -> list[str]:
    """The ids of a patient and their stays."""
    samples = pl.read_parquet(whole / "snapshots" / DAY / "ingested" / "samples.parquet")
    return [patient, *samples.filter(pl.col("subject_id") == patient)["stay_id"]]


def read_contents(out: Path) -> dict[str, object]:
    """File -> what it says, whoever wrote it."""
    contents: dict[str, object] = {}
    for file in list_files(out):
        name = file.relative_to(out).as_posix()
        if file.suffix == ".parquet":
            contents[name] = pl.read_parquet(file).to_dict(as_series=False)
        elif file.suffix == ".safetensors":
            contents[name] = {
                key: (values.shape, values.tobytes()) for key, values in load_file(file).items()
            }
        elif file.name != FILE:
            contents[name] = file.read_bytes()
    return contents
