"""What a task reads from the others in the network of all tasks, beside what it gains from them in
pairs.

Shapes: T tasks, K folds.
"""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy import stats

from m3h_core import Cohort, FitConfig, TaskSpec, fit, with_folds
from m3h_core.config import Normalization
from m3h_core.data.cohort import TEST
from m3h_core.tim import N_COMPONENTS, TaskSetEvaluator, shrink_network
from m3h_core.tim.matrix import list_cells
from m3h_core.tim.pairwise import pair_contrast
from m3h_pipeline.config import EvaluationConfig

FORMS: tuple[Normalization, ...] = ("stable", "learned")


def compare_attention(folder: Path, cache: Path) -> None:
    """Print attention's weights in the default network, and their rank correlation with the pairs
    of a small network, on the pipeline's split of a folder of the tables format.
    """
    from quality_study.tables import TablesData

    data = TablesData(folder, cache, product_split=True)
    tasks = [*data.tasks, *data.helpers]
    cohort = data.embedded(data.cohort(0))
    print(f"\nattention: {len(cohort)} stays, {len(tasks)} tasks")
    compare_with_pairs(cohort, tasks, FitConfig())


def compare_with_pairs(cohort: Cohort, tasks: list[TaskSpec], config: FitConfig) -> None:
    """Print the same for a cohort: attention averaged over its test rows, pairs in every fold."""
    off_diagonal = ~np.eye(len(tasks), dtype=bool)
    weights = {}
    for form in FORMS:
        started = time.process_time()
        model = fit(cohort, tasks, replace(config, attention=True, normalization=form))
        weights[form] = model.attention(cohort, cohort.rows(TEST))[off_diagonal]
        print(
            f"{form}: a task takes {np.median(weights[form]):.2%} from another (median), at most "
            f"{weights[form].max():.1%}; {time.process_time() - started:.0f} s",
            flush=True,
        )
    gain_KTT = measure_pairs(cohort, tasks, config)
    gains = gain_KTT.mean(0)[off_diagonal]
    for form in FORMS:
        print(f"{form}: rank correlation with the pairs {_correlate(weights[form], gains):+.2f}")
    between = [
        _correlate(one[off_diagonal], other[off_diagonal])
        for one, other in combinations(gain_KTT, 2)
    ]
    repeats = float(np.mean(between))
    folds = len(gain_KTT)
    # Spearman and Brown's: the reliability of the mean over the folds.
    of_mean = folds * repeats / (1 + (folds - 1) * repeats)
    print(
        f"the pairs of one fold with another's: {repeats:+.2f}; the reliability of their mean is "
        f"{of_mean:.2f}, so at most {max(of_mean, 0) ** 0.5:.2f} can be had"
    )


def measure_pairs(cohort: Cohort, tasks: list[TaskSpec], config: FitConfig) -> np.ndarray:
    """The skill [K, T, T] that a row's task gains when a column's is learned too: all pairs, one
    seed a fold.
    """
    started = time.process_time()
    folds = with_folds(cohort, EvaluationConfig().folds)
    evaluator = TaskSetEvaluator(
        folds, tasks, shrink_network(config), [config.seed], n_components=N_COMPONENTS
    )
    places = range(len(tasks))
    evaluator.train([*((i,) for i in places), *combinations(places, 2)])
    gain_KTT = np.zeros((len(evaluator.folds), len(tasks), len(tasks)))
    cells = list_cells(len(tasks))
    contrasts = [pair_contrast(i, j) for i, j in cells]
    for fold in range(len(evaluator.folds)):
        gain_KTT[fold][tuple(np.transpose(cells))] = evaluator.narrow(fold).values(
            contrasts, "skill"
        )
    print(f"pairs: {evaluator.trained} models, {time.process_time() - started:.0f} s", flush=True)
    return gain_KTT


def _correlate(one: np.ndarray, other: np.ndarray) -> float:
    """The rank correlation of the cells that both have."""
    defined = np.isfinite(one) & np.isfinite(other)
    return float(stats.spearmanr(one[defined], other[defined]).statistic)
