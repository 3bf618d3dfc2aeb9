"""The matrix of task interaction with its error, assembled from measured cells.

Shapes: T tasks; rows are the tasks that are helped or harmed, columns those that are learned too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from m3h_core.tim.evaluator import Measured, TaskSet, TaskSetEvaluator


@dataclass(frozen=True)
class TaskInteraction:
    """The interaction of T tasks; ``matrix_TT[i, j]`` is the change of task i's metric when j is
    learned too.

    Absolute changes with 95% intervals (seeds and subjects); the diagonal is 0. ``single_T`` and
    ``joint_T`` are the metrics of each task learned alone and with all others. ``source_TT`` says
    "retrained" or "estimated".

    ``q_TT`` are p values adjusted for the false discovery rate over all retrained cells (Benjamini
    and Hochberg): NaN where estimated, or where a single seed tells nothing of training's own
    doubt. ``evidence_TT`` is where these lie within ``fdr``; no other cell should be read as an
    effect. ``valid_TT`` is the matrix on the validation split: what choices are made by.
    ``agreement`` is the rank correlation of the estimates with retrained cells that they were not
    fitted on, where there are both. ``unit`` is "metric" unless the method has a unit of its own.
    """

    tasks: tuple[str, ...]
    method: str
    matrix_TT: np.ndarray
    low_TT: np.ndarray
    high_TT: np.ndarray
    single_T: np.ndarray
    joint_T: np.ndarray
    source_TT: np.ndarray
    q_TT: np.ndarray
    valid_TT: np.ndarray
    fdr: float = 0.05
    seeds: int = 1
    models: int = 0
    agreement: float = math.nan
    unit: str = field(default="metric")

    @property
    def evidence_TT(self) -> np.ndarray:
        """Whether each cell survives the control of the false discovery rate."""
        return np.nan_to_num(self.q_TT, nan=1.0) <= self.fdr

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form: lists, null where a number is not defined."""
        return {
            "tasks": list(self.tasks),
            "method": self.method,
            "unit": self.unit,
            "matrix": to_lists(self.matrix_TT),
            "low": to_lists(self.low_TT),
            "high": to_lists(self.high_TT),
            "single": to_lists(self.single_T),
            "joint": to_lists(self.joint_T),
            "source": self.source_TT.tolist(),
            "q": to_lists(self.q_TT),
            "evidence": self.evidence_TT.tolist(),
            "fdr": self.fdr,
            "seeds": self.seeds,
            "models": self.models,
            "estimator": self._describe_estimator(),
        }

    def _describe_estimator(self) -> dict[str, float | None] | None:
        """How good the estimates are; None where every cell was retrained."""
        if not (self.source_TT == "estimated").any():
            return None
        return {"agreement": self.agreement if math.isfinite(self.agreement) else None}


def to_lists(values: np.ndarray) -> Any:
    """Nested lists with None where a number is not finite."""
    if values.ndim > 1:
        return [to_lists(row) for row in values]
    return [value if math.isfinite(value) else None for value in values.tolist()]


def list_cells(n_tasks: int) -> list[tuple[int, int]]:
    """All T (T - 1) cells off the diagonal."""
    return [(i, j) for i in range(n_tasks) for j in range(n_tasks) if i != j]


def list_base_sets(n_tasks: int) -> list[TaskSet]:
    """What every matrix stands on: each task alone, and all together."""
    return [*((i,) for i in range(n_tasks)), tuple(range(n_tasks))]


def count_affordable(evaluator: TaskSetEvaluator, max_models: int | None) -> int | None:
    """Models that may be trained beyond the base sets; None: as many as it takes."""
    if max_models is None:
        return None
    first = len(evaluator.lacking(list_base_sets(len(evaluator.tasks))))
    if max_models < first:
        raise ValueError(
            f"max_models is {max_models}, but {first} single-task and joint models come first"
        )
    return max_models - first


def assemble_interaction(
    evaluator: TaskSetEvaluator,
    method: str,
    fdr: float,
    cells: Sequence[tuple[int, int]],
    measured: Measured,
    valid: np.ndarray,
) -> TaskInteraction:
    """The matrix of these cells; the others stay 0 and "estimated" until they are completed."""
    n = len(evaluator.tasks)
    at = tuple(np.transpose(cells).reshape(2, -1).astype(int))
    matrix = np.zeros((n, n))
    low = np.zeros((n, n))
    high = np.zeros((n, n))
    on_valid = np.zeros((n, n))
    matrix[at] = measured.value
    low[at] = measured.low
    high[at] = measured.high
    on_valid[at] = valid
    source = np.full((n, n), "estimated")
    source[at] = "retrained"
    np.fill_diagonal(source, "retrained")
    q = np.full((n, n), np.nan)
    q[at] = _adjust_p_values(measured.p)
    every = tuple(range(n))
    single = evaluator.values([{((i,), i): 1.0} for i in every])
    joint = evaluator.values([{(every, i): 1.0} for i in every])
    names = tuple(task.name for task in evaluator.tasks)
    return TaskInteraction(
        names,
        method,
        matrix,
        low,
        high,
        single,
        joint,
        source,
        q,
        on_valid,
        fdr,
        len(evaluator.seeds),
        evaluator.trained,
    )


def _adjust_p_values(p: np.ndarray) -> np.ndarray:
    """P values adjusted for the false discovery rate, NaN where there is none."""
    adjusted = np.full(len(p), np.nan)
    defined = np.isfinite(p)
    if defined.any():
        adjusted[defined] = stats.false_discovery_control(p[defined], method="bh")
    return adjusted
