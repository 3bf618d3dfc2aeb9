"""What the model of all tasks does for each of them, tested as pairs are.

Shapes: T tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from m3h_core.tim.contrasts import Contrast, Measure, average_contrasts
from m3h_core.tim.evaluator import TaskSetEvaluator
from m3h_core.tim.groups import Gain, measure_gain
from m3h_core.tim.matrix import to_lists
from m3h_core.tim.significance import Measured, adjust_p_values, find_survivors


@dataclass(frozen=True)
class JointLearning:
    """The metric of each task alone, ``single_T``, and in the model of all, ``joint_T``; its change
    with the 95% interval ``low_T`` to ``high_T``; and the change of skill, ``gain_T``, by which it
    is tested. The false discovery rate is controlled over the tasks. ``mean``: the mean change of
    skill over all tasks that have one.
    """

    single_T: np.ndarray
    joint_T: np.ndarray
    change_T: np.ndarray
    low_T: np.ndarray
    high_T: np.ndarray
    gain_T: np.ndarray
    q_T: np.ndarray
    mean: Gain
    fdr: float

    @property
    def evidence_T(self) -> np.ndarray:
        """Whether each gain or loss survives the control of the false discovery rate."""
        return find_survivors(self.q_T, self.fdr)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form: lists, null where a number is not defined."""
        return {
            "single": to_lists(self.single_T),
            "joint": to_lists(self.joint_T),
            "change": to_lists(self.change_T),
            "low": to_lists(self.low_T),
            "high": to_lists(self.high_T),
            "gain": to_lists(self.gain_T),
            "q": to_lists(self.q_T),
            "evidence": self.evidence_T.tolist(),
            "mean": self.mean.to_dict(),
        }


def measure_joint_learning(evaluator: TaskSetEvaluator, fdr: float = 0.05) -> JointLearning:
    """Compare the model of all tasks with each task's own, in the evaluator's folds; trained where
    they are not there yet.
    """
    every = tuple(range(len(evaluator.tasks)))
    sets = [*((i,) for i in every), every]
    evaluator.train(sets, None, [0])
    contrasts: list[Contrast] = [{(every, i): 1.0, ((i,), i): -1.0} for i in every]
    gain = _measure_in_units_of_error(evaluator, contrasts, "skill")
    change = _measure_in_units_of_error(evaluator, contrasts, "metric")
    return JointLearning(
        evaluator.values([{((i,), i): 1.0} for i in every]),
        evaluator.values([{(every, i): 1.0} for i in every]),
        change.value,
        change.low,
        change.high,
        gain.value,
        adjust_p_values(gain.p),
        _measure_mean(evaluator, [contrasts[i] for i in every if np.isfinite(gain.value[i])]),
        fdr,
    )


def _measure_mean(evaluator: TaskSetEvaluator, contrasts: Sequence[Contrast]) -> Gain:
    if not contrasts:
        return Gain(math.nan, math.nan, math.nan)
    return measure_gain(evaluator, average_contrasts(contrasts))


def _measure_in_units_of_error(
    evaluator: TaskSetEvaluator, contrasts: Sequence[Contrast], measure: Measure
) -> Measured:
    """Contrasts of different tasks, with what training adds estimated from all of them: what has
    few labels varies more in every way, so they are made alike before and scaled back after.
    """
    error = evaluator.project_errors(contrasts, measure)
    scale = np.where(np.isfinite(error) & (error > 0), error, 1.0)
    scaled: list[Contrast] = []
    for contrast, of_task in zip(contrasts, scale, strict=True):
        scaled.append({key: weight / of_task for key, weight in contrast.items()})
    measured = evaluator.measure(scaled, [0] * len(scaled), measure)
    return Measured(
        measured.value * scale,
        measured.error * scale,
        measured.low * scale,
        measured.high * scale,
        measured.p,
    )
