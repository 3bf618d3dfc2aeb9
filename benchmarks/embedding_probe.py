"""What the vectors of the demo hospital are worth to a linear probe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from embedding_clock import cpu_seconds

from m3h_core import Cohort, TaskSpec
from m3h_core.data.cohort import TRAIN
from m3h_core.embedders import SequenceEmbedder
from m3h_core.ensemble.ridge import fit_ridge
from m3h_core.metrics import interval
from m3h_core.weighted_metrics import weighted_auroc
from m3h_pipeline.features.items import modality_items, take
from m3h_pipeline.sources.tasks_file import read_tasks

SNAPSHOT = Path("snapshots") / "2026-01-01"


# What the demo hospital's story (m3h_pipeline/demo) says each modality knows.
DRIVEN = {
    "timeseries": (
        "acute_kidney_injury",
        "chronic_kidney_disease",
        "cirrhosis",
        "anemia",
        "thrombocytopenia",
        "sepsis",
        "respiratory_failure",
    ),
    "language": ("tobacco_use_disorder", "gout", "osteoarthritis", "depression", "anxiety"),
    "vision": ("pleural_effusion", "heart_failure", "valve_disease"),
}


def measure_probe(out: Path) -> None:
    """Print the probes' mean AUROC over the tasks that each modality drives."""
    if not (out / SNAPSHOT / "cohort" / "step.json").exists():
        subprocess.run(
            [
                sys.executable,
                "-m",
                "m3h_pipeline.cli.main",
                "run",
                "--source",
                "demo",
                "--out",
                str(out),
            ],
            check=True,
        )
    cohort = Cohort.load(out / SNAPSHOT / "cohort")
    tasks = [task for task in read_tasks(out / SNAPSHOT / "cohort") if task.problem == "binary"]
    vectors = {name: (cohort.embeddings[name], cohort.present[name]) for name in cohort.embeddings}
    items = modality_items("timeseries", out / SNAPSHOT / "inputs")
    learned = SequenceEmbedder()
    seconds = cpu_seconds(lambda: learned.fit(take(items, cohort.rows(TRAIN))))
    vectors["learned series"] = learned.transform(items)
    explained = learned.report["variance of hidden values explained"]
    draws = resample(cohort)
    print(
        f"\nprobe: {len(cohort.rows(TRAIN))} training samples, {(cohort.split != TRAIN).sum()} for "
        "testing"
    )
    print(
        f"learned encoder: {seconds:.0f} s of training, explains {explained:.0%} of hidden values' "
        "variance"
    )
    modalities = ("tabular", "timeseries", "language", "vision")
    scored: dict[tuple[str, ...], dict[str, np.ndarray]] = {}

    def score(*names: str) -> dict[str, np.ndarray]:
        if names not in scored:
            scored[names] = probe(cohort, tasks, [vectors[name] for name in names], draws)
        return scored[names]

    def line(
        label: str, which: tuple[str, ...] | None, a: tuple[str, ...], b: tuple[str, ...]
    ) -> None:
        chosen = which or tuple(task.name for task in tasks)
        first = np.mean([score(*a)[name] for name in chosen], axis=0)
        second = np.mean([score(*b)[name] for name in chosen], axis=0)
        low, high = interval(first[1:] - second[1:])
        difference = f"{first[0] - second[0]:+.3f} [{low:+.3f}, {high:+.3f}]" + (
            "" if low > 0 else "  (0 is inside)"
        )
        print(
            f"{label:<44}{len(chosen):>3}{first[0]:>8.3f}{second[0]:>8.3f}  {difference}",
            flush=True,
        )

    print(f"{'':<44}{'n':>3}{'first':>8}{'second':>8}  first minus second [95%]")
    for modality in modalities[1:]:
        line(
            f"tabular + {modality} against tabular",
            DRIVEN[modality],
            ("tabular", modality),
            ("tabular",),
        )
    for modality in modalities:
        line(f"all four against {modality}", None, modalities, (modality,))
    pair = ("tabular", "timeseries"), ("tabular", "learned series")
    line("statistics against learned (+ tabular)", DRIVEN["timeseries"], *pair)
    line("statistics against learned (+ tabular)", None, *pair)
    line(
        "both against statistics (+ tabular)",
        None,
        ("tabular", "timeseries", "learned series"),
        pair[0],
    )


def resample(cohort: Cohort, n: int = 1000) -> np.ndarray:
    """How often each sample outside train counts: once each, then in n resamples of the patients;
    [1 + n, N].
    """
    rows = np.flatnonzero(cohort.split != TRAIN)
    _, subject = np.unique(np.asarray(cohort.subject_ids)[rows], return_inverse=True)
    rng = np.random.default_rng(0)
    weights = np.zeros((1 + n, len(cohort)), np.float32)
    weights[0, rows] = 1
    for draw in range(n):
        counts = np.bincount(
            rng.integers(0, subject.max() + 1, subject.max() + 1), minlength=subject.max() + 1
        )
        weights[1 + draw, rows] = counts[subject]
    return weights


def probe(
    cohort: Cohort,
    tasks: list[TaskSpec],
    parts: list[tuple[np.ndarray, np.ndarray]],
    draws: np.ndarray,
) -> dict[str, np.ndarray]:
    """AUROC [1 + draws] of each task outside train, of a ridge regression on some modalities, each
    counted alike.
    """
    train = cohort.split == TRAIN
    blocks = []
    for vectors, present in parts:
        block = np.column_stack([np.where(present[:, None], vectors, 0), ~present]).astype(
            np.float64
        )
        spread = block[train].std(0)
        blocks.append(
            (block - block[train].mean(0))
            / np.where(spread > 1e-6, spread, np.inf)
            / block.shape[1] ** 0.5
        )
    x = np.concatenate(blocks, axis=1)
    scores = {}
    for task in tasks:
        label = np.asarray(cohort.labels[task.name])
        labelled = np.asarray(cohort.labelled[task.name])
        ridge = fit_ridge(x[train & labelled], label[train & labelled][:, None])
        rows = np.flatnonzero(labelled & ~train)
        scores[task.name] = weighted_auroc(label[rows] > 0.5, ridge(x[rows])[:, 0], draws[:, rows])
    return scores
