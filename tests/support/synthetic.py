"""A small cohort with known causes, for the tests of the core."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from m3h_core import Cohort, FitConfig, FittedModel, TaskSpec

WIDTHS = {"tabular": 6, "timeseries": 8, "language": 5, "vision": 7}
TASKS = (
    TaskSpec("death", "binary"),
    TaskSpec("shock", "binary"),
    TaskSpec("stay", "regression", unit="days"),
    TaskSpec("destination", "multiclass", classes=["home", "facility", "died"]),
    TaskSpec("phenotype", "clustering", classes=3),
)
SUPERVISED = TASKS[:4]
SMALL = FitConfig(
    hidden=(24, 12),
    width=6,
    members=2,
    epochs=12,
    batch_size=64,
    patience=8,
    learning_rate=0.01,
    weight_decay=0.1,
)


def make_cohort(n: int = 400, seed: int = 0) -> Cohort:
    """Three groups of patients with two latent causes each; every modality sees both, some are
    missing.
    """
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 3, n)
    cause = rng.normal(size=(n, 2)) + np.array([[3.0, 0.0], [-3.0, 1.0], [0.0, -4.0]])[group]
    embeddings = {}
    present = {}
    for name, width in WIDTHS.items():
        mixing = rng.normal(size=(2, width))
        embeddings[name] = (cause @ mixing + rng.normal(size=(n, width))).astype(np.float32)
        present[name] = rng.random(n) < 0.8
        embeddings[name][~present[name]] = np.nan  # what is not present is never read
    present["tabular"][:] = True
    embeddings["tabular"] = np.nan_to_num(embeddings["tabular"])
    labels = {
        "death": (cause[:, 0] + rng.logistic(size=n) > 1).astype(float),
        "shock": (cause[:, 1] + rng.logistic(size=n) > 0).astype(float),
        "stay": 10 + 4 * cause[:, 0] + rng.normal(size=n),
        "destination": group.astype(float),
        "phenotype": np.zeros(n),
    }
    labelled = {name: rng.random(n) < 0.9 for name in labels}
    return Cohort(
        sample_ids=[f"s{i}" for i in range(n)],
        split=rng.choice(4, n, p=[0.55, 0.15, 0.1, 0.2]),
        embeddings=embeddings,
        present=present,
        labels={name: np.where(labelled[name], values, np.nan) for name, values in labels.items()},
        labelled=labelled,
        subject_ids=[f"p{i // 2}" for i in range(n)],
        groups={"cluster": group.astype(str).tolist()},
    )


def with_labelled(cohort: Cohort, task: str, mask: np.ndarray) -> Cohort:
    """The cohort in which a task is labelled on some rows only."""
    return replace(cohort, labelled={**cohort.labelled, task: cohort.labelled[task] & mask})


class Killed(Exception):
    """Stands for a kill in the middle of training."""


def assert_same(a: FittedModel, b: FittedModel) -> None:
    """Two models are equal to the last bit."""
    assert a.tasks == b.tasks
    assert a.units == b.units
    state = a.model.state_dict()
    other = b.model.state_dict()
    assert state.keys() == other.keys()
    for name, value in state.items():
        assert torch.equal(value, other[name]), name
