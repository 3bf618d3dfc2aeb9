"""What each modality adds to the model, on the samples that it is judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from m3h_core.data.cohort import proper_subsets
from m3h_core.workers import single_torch_thread
from m3h_pipeline.evaluation.scores import (
    Predictions,
    contrast_variants,
    hide_small_count,
    round_value,
    score_variants,
)

if TYPE_CHECKING:
    from m3h_core import Cohort, EnsembleModel, TaskSpec
    from m3h_core.metrics import Resamples

# Bounds the memory: each has its own copy of the inputs.
_MOST_THREADS = 4


def describe_modalities(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    model: EnsembleModel,
    retrained: Mapping[str, np.ndarray],
    draws: Resamples,
) -> dict[str, Any] | None:
    """What the one model makes of each subset of the modalities, the others taken away; None for a
    single modality.

    Beside it, where there are any, what models made of it that had learned from these modalities
    alone.
    """
    from m3h_core.metrics import interval

    modalities = [name for name, mask in cohort.present.items() if np.asarray(mask).any()]
    subsets = [tuple(modalities), *proper_subsets(cohort)]
    classified = [at for at, task in enumerate(tasks) if task.problem in ("binary", "multiclass")]
    if len(modalities) < 2 or not classified:
        return None
    masked = [_mask_modalities(cohort, subset) for subset in subsets]
    predictions = predict_side_by_side(model, masked)
    values, replicates = score_variants(masked, tasks, predictions, draws)
    rows = []
    for at, subset in enumerate(subsets):
        low, high = interval(replicates[at, classified].mean(0))
        has_any = np.any([cohort.present[name] for name in subset], axis=0)
        own_tasks = [tasks[i] for i in classified]
        rows.append(
            {
                "modalities": list(subset),
                "n": hide_small_count(int(has_any.sum())),
                "value": round_value(values[at, classified].mean()),
                "low": round_value(low),
                "high": round_value(high),
                "retrained": _score_retrained(
                    cohort, own_tasks, "+".join(subset), retrained, draws
                ),
            }
        )
    without = {name: _find_without(subsets, name) for name in modalities}
    mean_values = values[:, classified].mean(1)
    mean_replicates = replicates[:, classified].mean(1)
    return {
        "tasks": len(classified),
        "subsets": rows,
        "adds": _describe_additions(without, mean_values, mean_replicates),
        "by_task": [
            {
                "task": task.name,
                "adds": _describe_additions(without, values[:, i], replicates[:, i]),
            }
            for i, task in enumerate(tasks)
        ],
    }


def predict_side_by_side(model: EnsembleModel, cohorts: Sequence[Cohort]) -> list[Predictions]:
    """The model's predictions of each cohort, a thread a core."""
    import torch

    n_threads = min(torch.get_num_threads(), _MOST_THREADS)
    with single_torch_thread(), ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(model.predict_unseen, cohorts))


def _find_without(subsets: Sequence[tuple[str, ...]], name: str) -> int:
    """Which subset is all modalities but this one; the first is all of them."""
    return subsets.index(tuple(other for other in subsets[0] if other != name))


def _describe_additions(
    without: Mapping[str, int], values: np.ndarray, replicates: np.ndarray
) -> dict[str, dict[str, float | None]]:
    """All modalities minus all but one, for each; from [subsets] and [subsets, R]."""
    return {
        name: contrast_variants(values[[0, at]], replicates[[0, at]])
        for name, at in without.items()
    }


def _score_retrained(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    subset: str,
    retrained: Mapping[str, np.ndarray],
    draws: Resamples,
) -> dict[str, float | None] | None:
    """The mean score of the model that was trained on a subset alone, None where there is none."""
    from m3h_core.metrics import interval

    predictions = {
        task.name: retrained[f"{subset}/{task.name}"]
        for task in tasks
        if f"{subset}/{task.name}" in retrained
    }
    if len(predictions) < len(tasks):
        return None
    values, replicates = score_variants([cohort], tasks, [predictions], draws)
    low, high = interval(replicates[0].mean(0))
    return {
        "value": round_value(values.mean()),
        "low": round_value(low),
        "high": round_value(high),
    }


def _mask_modalities(cohort: Cohort, subset: Sequence[str]) -> Cohort:
    """The cohort as if its patients had only some of the modalities."""
    nothing = np.zeros(len(cohort), dtype=bool)
    present = {name: mask if name in subset else nothing for name, mask in cohort.present.items()}
    return replace(cohort, present=present)
