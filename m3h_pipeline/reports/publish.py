"""Gather what the page shows, write it, and publish ``<out>/latest``."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from m3h_core.data.cohort import SPLITS, TEST, Cohort
from m3h_core.embedders.installed_weights import EFFICIENTNET_LITE0
from m3h_pipeline.config import Config
from m3h_pipeline.contracts.checks import get_state
from m3h_pipeline.contracts.quarantine_csv import write_quarantine_csv
from m3h_pipeline.evaluation.method import describe_evaluation_limits
from m3h_pipeline.reports.card import format_model_card
from m3h_pipeline.reports.findings import select_highlights
from m3h_pipeline.reports.flow import count_erased, count_sample_flow
from m3h_pipeline.reports.page import CohortFacts, EmbeddingFacts, ReportData, write_report
from m3h_pipeline.reports.validation import write_validation
from m3h_pipeline.state.data_files import read_json
from m3h_pipeline.state.lineage import read_whole_lineage
from m3h_pipeline.state.permissions import copy_folder_closed
from m3h_pipeline.state.steps import Step, replace_folder

_COPIED = {
    "quality": ["metrics.json", "trust.json", "detail.json", "predictions.parquet"],
    "tim": ["tim.json", "tim.parquet"],
    "monitoring": ["monitoring.json"],
}


def write_page(
    config: Config,
    snapshot: str,
    steps: Mapping[str, Step],
    valid: Mapping[str, Step],
    embedded: Mapping[str, Step],
    to: Path,
    run_url: str,
) -> dict[str, Any]:
    """Write ``report.html``, ``model_card.md`` and, beside them, all that ``<out>/latest`` holds.

    ``run_url``: the training's page in MLflow.
    """
    for step, files in _COPIED.items():
        for file in files:
            shutil.copy(steps[step].folder / file, to / file)
    (to / "quarantine").mkdir(mode=0o700)
    for table, step in valid.items():
        for ending in ("parquet", "csv"):
            shutil.copy(
                step.folder / f"quarantine.{ending}", to / "quarantine" / f"{table}.{ending}"
            )
    for modality, step in embedded.items():
        if step.info.get("unreadable"):
            file = to / "quarantine" / f"{modality}_embedding.parquet"
            shutil.copy(step.folder / "quarantine.parquet", file)
            write_quarantine_csv(file, {})
    lineage = read_whole_lineage(
        steps["ingested"].folder, {table: step.folder for table, step in valid.items()}
    )
    lineage.write_parquet(to / "lineage.parquet")
    write_validation(snapshot, valid, to)
    data = _collect_report_data(config, snapshot, steps, valid, embedded, lineage, run_url)
    write_report(data, to / "report.html")
    (to / "model_card.md").write_text(format_model_card(data))
    return {"bytes": (to / "report.html").stat().st_size}


def publish(out: Path, page: Path, scores: Path | None = None) -> Path:
    """Make ``<out>/latest`` a copy of the report's folder and the scores, whole or not at all."""
    partial = out / ".latest.partial"
    shutil.rmtree(partial, ignore_errors=True)
    copy_folder_closed(page, partial, ignored=["step.json", ".*"])
    if scores:
        shutil.copy2(scores, partial / scores.name)
    replace_folder(partial, out / "latest")
    return out / "latest"


def _collect_report_data(
    config: Config,
    snapshot: str,
    steps: Mapping[str, Step],
    valid: Mapping[str, Step],
    embedded: Mapping[str, Step],
    lineage: pl.DataFrame,
    run_url: str,
) -> ReportData:
    cohort = Cohort.load(steps["cohort"].folder)
    synthetic = config.source.name == "demo"
    version = steps["model_version"].info
    checks: list[Any] = [
        {
            "table": table,
            "name": check["name"],
            "state": get_state(check),
            "description": check["description"],
        }
        for table, step in valid.items()
        for check in step.info["checks"]
    ]
    rows: list[Any] = (
        lineage.group_by("table", "file", "outcome", "reason", maintain_order=True)
        .agg(pl.col("rows").sum())
        .to_dicts()
    )
    return {
        "title": "M3H: many tasks from many modalities",
        "source": "the demo hospital" if synthetic else config.source.name,
        "synthetic": synthetic,
        "snapshot": snapshot,
        "model": {"name": version["name"], "version": version["version"], "run_url": run_url},
        "cohort": count_cohort(cohort),
        "lineage": rows,
        "flow": count_sample_flow(
            lineage,
            steps["ingested"].folder / "samples.parquet",
            valid["samples"].folder / "samples.parquet",
        ),
        "erased": count_erased(valid),
        "checks": checks,
        "gate": read_json(steps["gate"].folder / "gate.json"),
        "highlights": select_highlights(valid),
        "metrics": read_json(steps["quality"].folder / "metrics.json"),
        "tim": read_json(steps["tim"].folder / "tim.json"),
        "trust": read_json(steps["quality"].folder / "trust.json"),
        "detail": read_json(steps["quality"].folder / "detail.json"),
        "embeddings": {
            modality: _describe_embedding(step.info) for modality, step in embedded.items()
        },
        "drift": {
            "champion": steps["scores"].info["model_version"],
            "problem": steps["scores"].info.get("problem"),
            **read_json(steps["monitoring"].folder / "monitoring.json"),
            "checks": steps["monitoring"].info["checks"],
        },
        "limits": steps["ingested"].info.get("limits", [])
        + _describe_limits(config, cohort, synthetic, _list_given_modalities(valid)),
    }


def _describe_embedding(info: Mapping[str, Any]) -> EmbeddingFacts:
    encoder = info["encoder"].get("encoder")
    # Of a checkpoint by path: its folder's name, as the page is shown to others.
    name = Path(encoder).name if encoder and Path(encoder).is_absolute() else encoder
    return {"encoder": name, "columns": info["width"], "seconds": info["seconds"]}


def count_cohort(cohort: Cohort) -> CohortFacts:
    """The counts that the page shows; folds are counted from 1."""
    folds = {}
    if cohort.fold is not None:
        counts = np.bincount(cohort.fold, minlength=cohort.n_folds)
        folds = {str(at + 1): int(count) for at, count in enumerate(counts)}
    return {
        "samples": len(cohort),
        "subjects": len(set(cohort.subjects)),
        "judged": len(cohort.rows(TEST)),
        # Not `rows`: of a cross-fitted cohort all are judged, whatever their split.
        "splits": {name: int((cohort.split == at).sum()) for name, at in SPLITS.items()},
        "folds": folds,
        "modalities": {name: int(present.sum()) for name, present in cohort.present.items()},
    }


def _list_given_modalities(valid: Mapping[str, Step]) -> list[str]:
    """The modalities whose vectors are the hospital's own."""
    rows = pl.scan_parquet(valid["embeddings"].folder / "embeddings.parquet")
    return rows.select(pl.col("modality").unique().sort()).collect()["modality"].to_list()


def _describe_limits(
    config: Config, cohort: Cohort, synthetic: bool, given: Sequence[str]
) -> list[str]:
    """What a reader must know before trusting a number."""
    limits = []
    if synthetic:
        limits.append(
            "All data is synthetic: the scores say that the pipeline works, not how it does on "
            "patients."
        )
    if given:
        limits.append(
            f"The vectors of {', '.join(given)} were given, not computed here: that they hold "
            "nothing known after the prediction time is their maker's word."
        )
    if (
        config.embedding.vision == EFFICIENTNET_LITE0
        and "vision" not in config.embedding.encoders
        and cohort.present["vision"].any()
        and "vision" not in given
    ):
        limits.append(
            "The image encoder (EfficientNet-lite0) was trained on photographs (ImageNet), not on "
            "medical images: one trained on such may see more (embedding.vision in m3h.toml)."
        )
    absent = [name for name, present in cohort.present.items() if not present.any()]
    if absent:
        limits.append(f"This hospital delivered no data for: {', '.join(absent)}.")
    return limits + describe_evaluation_limits(cohort.n_folds, len(cohort.rows(TEST)))
