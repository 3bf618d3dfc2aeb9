"""A hospital whose truth is known, and the gate's verdict on predictions for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from m3h_core import Calibrator, Cohort, FoldCalibrators, TaskSpec
from m3h_pipeline.config import GateConfig
from m3h_pipeline.registry import gate

CONFIG = GateConfig(bootstrap=500)
TASKS = [
    *(TaskSpec(f"b{i}", "binary") for i in range(4)),
    TaskSpec("stay", "regression", unit="days"),
    TaskSpec("place", "multiclass", classes=["home", "facility", "died"]),
    TaskSpec("kind", "clustering", classes=2),
]


def make_hospital(seed: int = 0, n: int = 1200) -> tuple[Cohort, dict[str, np.ndarray]]:
    """Mostly test, some calibration, a little train; and what a calibrated model would predict."""
    rng = np.random.default_rng(seed)
    space = rng.normal(size=(n, 2)) + np.where(np.arange(n) % 2, 3, -3)[:, None]
    chance = {f"b{i}": 1 / (1 + np.exp(-rng.normal(-0.5, 1.5, n))) for i in range(4)}
    labels = {name: (rng.random(n) < p) * 1.0 for name, p in chance.items()}
    days = rng.gamma(4, 1, n)
    labels["stay"] = days + rng.normal(0, 1, n)
    odds = np.exp(rng.normal(0, 1.5, (n, 3)))
    place = odds / odds.sum(1, keepdims=True)
    labels["place"] = (rng.random((n, 1)) > place.cumsum(1)).sum(1) * 1.0
    labels["kind"] = np.zeros(n)
    cohort = Cohort(
        sample_ids=[str(i) for i in range(n)],
        split=np.repeat([0, 2, 3], [40, n // 2 - 40, n - n // 2]),
        embeddings={"tabular": space},
        present={"tabular": np.ones(n, bool)},
        labels=labels,
        labelled={name: np.full(n, name != "kind") for name in labels},
        subject_ids=[str(i // 2) for i in range(n)],
        groups={
            "sex": ["F" if i % 4 < 2 else "M" for i in range(n)],
            "ward": ["rare" if i >= n - 8 else "usual" for i in range(n)],
        },
    )
    predictions = {
        **chance,
        "stay": days,
        "place": place,
        "kind": np.eye(2)[(space[:, 0] > 0).astype(int)],
    }
    return cohort, predictions


def add_noise(prediction: np.ndarray, seed: int, scale: float) -> np.ndarray:
    """The same with noise on the logit: it ranks worse."""
    rng = np.random.default_rng(seed)
    logits = np.log(prediction / (1 - prediction)) + rng.normal(0, scale, len(prediction))
    return 1 / (1 + np.exp(-logits))


def judge_candidate(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    candidate: gate.Predictions,
    champion: gate.ReferenceModel | None,
    config: GateConfig,
    **more: Any,
) -> dict:
    """The gate's verdict on a candidate that travels with its own calibrator, where one can be
    fitted.
    """
    sound = [task for task in tasks if np.isfinite(candidate[task.name]).all()]
    if cohort.fold is not None:
        calibrators = FoldCalibrators.fit(cohort, sound, candidate)
        return gate.judge(cohort, tasks, candidate, calibrators, champion, config, **more)
    calibration = np.flatnonzero(cohort.split == 2)
    predictions = {task.name: candidate[task.name][calibration] for task in sound}
    calibrator = Calibrator.fit(cohort.take(calibration), sound, predictions)
    return gate.judge(cohort, tasks, candidate, calibrator, champion, config, **more)


def get_outcomes(verdict: dict) -> dict[str, bool]:
    return {check["name"]: check["passed"] for check in verdict["checks"]}


def get_reason(verdict: dict, name: str) -> str:
    return next(check["reason"] for check in verdict["checks"] if check["name"] == name)


def get_check(verdict: dict, name: str) -> dict:
    return next(one for one in verdict["checks"] if one["name"] == name)
