"""The matrix of task interaction with its error, assembled from measured cells.

Shapes: T tasks; rows are the tasks that are helped or harmed, columns those that are learned too;
n cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from m3h_core.tim.contrasts import Contrast, TaskSet
from m3h_core.tim.evaluator import TaskSetEvaluator
from m3h_core.tim.significance import Measured, adjust_p_values, find_survivors


@dataclass(frozen=True)
class TaskInteraction:
    """The interaction of T tasks; cell [i, j] is what task i gains when j is learned too.

    By two measures, the diagonal 0: ``matrix_TT`` is the change of task i's metric, with the 95%
    interval ``low_TT`` to ``high_TT`` (patients and training), and ``gain_TT`` that of its skill (1
    - loss / loss of the best constant), by which cells are tested. ``single_T`` and ``joint_T`` are
    the metrics of each task learned alone and with all others, NaN where that was not trained.
    ``stopped_TT``: not measured in all folds with all seeds, since it was hopeless.

    ``q_TT`` are p values adjusted for the false discovery rate over all cells (Benjamini and
    Hochberg): NaN where a single model doesn't tell how much training varies. ``evidence_TT`` is
    where these lie within ``fdr``; no other cell should be read as an effect. ``valid_TT`` is the
    gain on the validation split: what choices are made by.
    """

    tasks: tuple[str, ...]
    method: str
    matrix_TT: np.ndarray
    low_TT: np.ndarray
    high_TT: np.ndarray
    gain_TT: np.ndarray
    q_TT: np.ndarray
    valid_TT: np.ndarray
    stopped_TT: np.ndarray
    single_T: np.ndarray
    joint_T: np.ndarray
    fdr: float
    folds: int
    seeds: int
    models: int

    @property
    def evidence_TT(self) -> np.ndarray:
        """Whether each cell survives the control of the false discovery rate."""
        return find_survivors(self.q_TT, self.fdr)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form: lists, null where a number is not defined."""
        return {
            "tasks": list(self.tasks),
            "method": self.method,
            "matrix": to_lists(self.matrix_TT),
            "low": to_lists(self.low_TT),
            "high": to_lists(self.high_TT),
            "gain": to_lists(self.gain_TT),
            "q": to_lists(self.q_TT),
            "evidence": self.evidence_TT.tolist(),
            "stopped": self.stopped_TT.tolist(),
            "single": to_lists(self.single_T),
            "fdr": self.fdr,
            "folds": self.folds,
            "seeds": self.seeds,
            "models": self.models,
        }


def to_lists(values: np.ndarray) -> Any:
    """Nested lists with None where a number is not finite."""
    if values.ndim > 1:
        return [to_lists(row) for row in values]
    return [value if math.isfinite(value) else None for value in values.tolist()]


def list_cells(n_tasks: int) -> list[tuple[int, int]]:
    """All T (T - 1) cells off the diagonal."""
    return [(i, j) for i in range(n_tasks) for j in range(n_tasks) if i != j]


def list_single_sets(n_tasks: int) -> list[TaskSet]:
    """Each task alone."""
    return [(i,) for i in range(n_tasks)]


def assemble_interaction(
    evaluator: TaskSetEvaluator,
    method: str,
    fdr: float,
    contrasts: Sequence[Contrast],
    gain: Measured,
    change: Measured,
) -> TaskInteraction:
    """The matrix of all cells, in the order of `list_cells`; ``gain`` [n] is by skill, ``change``
    [n] by the metric.
    """
    n = len(evaluator.tasks)
    every = tuple(range(n))
    is_stopped = []
    for contrast in contrasts:
        sets = [members for members, _ in contrast]
        is_stopped.append(bool(evaluator.lacking(sets)))
    return TaskInteraction(
        tasks=evaluator.names_of(every),
        method=method,
        matrix_TT=_to_matrix(n, change.value),
        low_TT=_to_matrix(n, change.low),
        high_TT=_to_matrix(n, change.high),
        gain_TT=_to_matrix(n, gain.value),
        q_TT=_to_matrix(n, adjust_p_values(gain.p), diagonal=np.nan),
        valid_TT=_to_matrix(n, evaluator.valid_values(contrasts)),
        stopped_TT=_to_matrix(n, np.array(is_stopped)).astype(bool),
        single_T=evaluator.values([{((i,), i): 1.0} for i in every]),
        joint_T=evaluator.values([{(every, i): 1.0} for i in every]),
        fdr=fdr,
        folds=len(evaluator.folds),
        seeds=len(evaluator.seeds),
        models=evaluator.trained,
    )


def _to_matrix(n_tasks: int, values: np.ndarray, diagonal: float = 0.0) -> np.ndarray:
    """Cells [n] in the order of `list_cells` as [T, T]."""
    matrix = np.full((n_tasks, n_tasks), diagonal, dtype=np.float64)
    matrix[~np.eye(n_tasks, dtype=bool)] = values
    return matrix
