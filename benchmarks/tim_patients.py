"""Task interaction on real patients: what it costs, and whether what one half of them shows is seen
in the other.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from scipy import stats

from m3h_core import Cohort, FitConfig, with_folds
from m3h_core.data.folds import assign_folds
from m3h_core.tim import (
    N_COMPONENTS,
    TaskSetEvaluator,
    measure_interaction,
    measure_joint_learning,
    shrink_network,
)
from m3h_core.tim.matrix import list_cells
from m3h_core.tim.pairwise import pair_contrast
from m3h_pipeline.config import EvaluationConfig, TimConfig

FOLDS = EvaluationConfig().folds
SEEDS = range(TimConfig().seeds)
# Of so many of the clearest cells, whether they survive or not, the signs are compared.
CLEAREST = 40


def measure_patients(folder: Path, cache: Path) -> None:
    """Print the effects that survive on all patients and on each half, and how far they repeat."""
    from quality_study.tables import TablesData

    data = TablesData(folder, cache)
    tasks = [*data.tasks, *data.helpers]
    cohort = data.embedded(data.cohort(0))
    half = assign_folds([f"half {subject}" for subject in cohort.subjects], 2)
    parts = {
        "all patients": cohort,
        "one half": cohort.take(np.flatnonzero(half == 0)),
        "the other half": cohort.take(np.flatnonzero(half == 1)),
    }
    evaluators = {}
    interactions = {}
    print(f"\npatients: {len(cohort)} stays, {len(tasks)} tasks")
    for name, part in parts.items():
        started = time.process_time()
        evaluator = _start_evaluator(part, tasks)
        interaction = measure_interaction(evaluator)
        evaluators[name] = evaluator
        interactions[name] = interaction
        up = int((interaction.evidence_TT & (interaction.gain_TT > 0)).sum())
        down = int(interaction.evidence_TT.sum()) - up
        together = measure_joint_learning(evaluator)
        print(
            f"{name}: {up} effects that help and {down} that harm survive of "
            f"{len(list_cells(len(tasks)))}; all tasks in one such network help "
            f"{int((together.evidence_T & (together.gain_T > 0)).sum())} and harm "
            f"{int((together.evidence_T & (together.gain_T < 0)).sum())} of {len(tasks)}; "
            f"{interaction.models} models, {time.process_time() - started:.0f} s",
            flush=True,
        )
    first = interactions["one half"]
    surviving = [cell for cell in list_cells(len(tasks)) if first.evidence_TT[cell]]
    # By q; among those of equal q, as all that were stopped, by the size of the effect.
    q = np.nan_to_num(first.q_TT, nan=np.inf).ravel()
    size = np.nan_to_num(np.abs(first.gain_TT)).ravel()
    order = np.lexsort((-size, q))
    clearest = [divmod(int(place), len(tasks)) for place in order[:CLEAREST]]
    other = evaluators["the other half"]
    for label, cells in (("that survive", surviving), (f"{CLEAREST} clearest", clearest)):
        if not cells:
            continue
        other.train([(min(cell), max(cell)) for cell in cells], None, [0])
        repeated = other.values([pair_contrast(i, j) for i, j in cells], "skill")
        same = np.sign(repeated) == np.sign([first.gain_TT[cell] for cell in cells])
        print(
            f"effects of one half, {label}: {same.mean():.0%} of {len(cells)} have that sign in "
            "the other"
        )
    both = [interactions[name].gain_TT[~np.eye(len(tasks), dtype=bool)] for name in parts][1:]
    defined = np.isfinite(both).all(0)
    print(
        f"rank correlation of the halves over all cells: "
        f"{stats.spearmanr(both[0][defined], both[1][defined]).statistic:.2f}"
    )


def _start_evaluator(cohort: Cohort, tasks: list) -> TaskSetEvaluator:
    network = shrink_network(FitConfig())
    folds = with_folds(cohort, FOLDS)
    return TaskSetEvaluator(folds, tasks, network, SEEDS, n_components=N_COMPONENTS)
