"""What is judged on validation counts what labels tell, not rows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from m3h_core import Cohort, FitConfig, TaskSpec, fit
from m3h_core.data.cohort import TRAIN, VALID
from m3h_core.data.training_data import LEAST_TO_JUDGE, TrainingData
from m3h_core.training import fit as fitting

N = 400
TASKS = [
    TaskSpec("rare", "binary"),
    TaskSpec("common", "binary"),
    TaskSpec("where", "multiclass", classes=3),
    TaskSpec("dose", "regression"),
    TaskSpec("unseen", "binary"),
    TaskSpec("kind", "clustering", classes=2),
]
CONFIG = FitConfig(hidden=(8,), members=2, epochs=2)


def make_cohort(rare_positives: int = 3) -> Cohort:
    """Half training, half validation; of `rare`, so many positives in each."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 4))
    at = np.arange(N) // 2
    labels = {
        "rare": (at < rare_positives).astype(float),
        "common": (at % 2).astype(float),
        "where": np.where(at < 7, 1.0, np.where(at < 12, 2.0, 0.0)),
        "dose": x[:, 0],
        "unseen": np.zeros(N),
    }
    labelled = dict.fromkeys(labels, np.ones(N, bool)) | {"unseen": np.zeros(N, bool)}
    split = np.where(np.arange(N) % 2, VALID, TRAIN)
    present = {"tabular": np.ones(N, bool)}
    return Cohort([str(i) for i in range(N)], split, {"tabular": x}, present, labels, labelled)


def test_a_class_s_evidence_is_what_is_not_of_the_most_frequent_class():
    data = TrainingData.of(make_cohort(), TASKS, CONFIG)
    assert data.valid_evidence.tolist() == [3, 100, 12, 200, 0, 200]


@pytest.mark.parametrize(("positives", "is_judged"), [(3, False), (LEAST_TO_JUDGE, True)])
def test_a_rare_task_is_mixed_with_the_ridge_by_its_positives(monkeypatch, positives, is_judged):
    chosen = []

    def choose(members, loss_fn, evidence_GT, **more):
        def prefer_ridge(outputs: torch.Tensor) -> torch.Tensor:
            return (outputs - members[1]).square().mean(-1)

        weights = original(members, prefer_ridge, evidence_GT, **more)
        chosen.append(weights)
        return weights

    original = fitting.choose_mixture
    monkeypatch.setattr(fitting, "choose_mixture", choose)
    cohort = make_cohort(positives)
    fit(cohort, TASKS[:2], replace(CONFIG, borrowing=False))
    share_of_network = chosen[0][0, 0]
    assert share_of_network.tolist() == [0.0 if is_judged else 1.0, 0.0]
