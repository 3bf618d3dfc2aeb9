"""M3H: multimodal multitask machine learning for healthcare, as a PyTorch library.

Every public name imports from here; each is loaded when first asked for, so that ``import
m3h_core`` stays light.

>>> from m3h_core import FitConfig, TaskSpec
>>> FitConfig(seed=1).seed, TaskSpec("death", "binary").problem
(1, 'binary')
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m3h_core.calibration import (
        Calibrator,
        FoldCalibrators,
        ObservedCoverage,
        TaskCalibration,
    )
    from m3h_core.cluster_evidence import ClusterEvidence, judge_clusters
    from m3h_core.clusters import Enrichment, cluster_enrichment, cluster_stability
    from m3h_core.config import FitConfig
    from m3h_core.data.cohort import Cohort
    from m3h_core.data.folds import with_folds
    from m3h_core.data.tasks import TaskSpec
    from m3h_core.embedders import Embedder
    from m3h_core.ensemble.fold_models import FoldModels
    from m3h_core.metrics import Difference, Score, compare_predictions, evaluate_predictions
    from m3h_core.model.attention import CrossTaskAttention
    from m3h_core.model.m3h import M3H
    from m3h_core.tim import TaskInteraction, task_interaction
    from m3h_core.training.bank import fit_many
    from m3h_core.training.cross_fit import cross_fit
    from m3h_core.training.fit import fit
    from m3h_core.training.fitted import FittedModel
    from m3h_core.training.search import Trial, tune

_HOME = {
    "TaskSpec": "data.tasks",
    "Cohort": "data.cohort",
    "Embedder": "embedders",
    "CrossTaskAttention": "model.attention",
    "M3H": "model.m3h",
    "FitConfig": "config",
    "fit": "training.fit",
    "FittedModel": "training.fitted",
    "fit_many": "training.bank",
    "cross_fit": "training.cross_fit",
    "with_folds": "data.folds",
    "FoldModels": "ensemble.fold_models",
    "EnsembleModel": "training.fitted_ensemble",
    "load_model": "training.fitted_ensemble",
    "Score": "metrics",
    "Difference": "metrics",
    "evaluate_predictions": "metrics",
    "compare_predictions": "metrics",
    "Calibrator": "calibration",
    "FoldCalibrators": "calibration",
    "TaskCalibration": "calibration",
    "ObservedCoverage": "calibration",
    "Enrichment": "clusters",
    "cluster_enrichment": "clusters",
    "cluster_stability": "clusters",
    "ClusterEvidence": "cluster_evidence",
    "judge_clusters": "cluster_evidence",
    "tune": "training.search",
    "Trial": "training.search",
    "task_interaction": "tim",
    "TaskInteraction": "tim",
}

__all__ = [
    "M3H",
    "Calibrator",
    "ClusterEvidence",
    "Cohort",
    "CrossTaskAttention",
    "Difference",
    "Embedder",
    "Enrichment",
    "EnsembleModel",
    "FitConfig",
    "FittedModel",
    "FoldCalibrators",
    "FoldModels",
    "ObservedCoverage",
    "Score",
    "TaskCalibration",
    "TaskInteraction",
    "TaskSpec",
    "Trial",
    "cluster_enrichment",
    "cluster_stability",
    "compare_predictions",
    "cross_fit",
    "evaluate_predictions",
    "fit",
    "fit_many",
    "judge_clusters",
    "load_model",
    "task_interaction",
    "tune",
    "with_folds",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
