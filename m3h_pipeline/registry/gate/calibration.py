"""The check of calibration: probabilities mean what they say, and intervals hold the truth as often
as stated.

A task fails only where it is *shown*, among so many, to be off by more than the bound: where a
model that is off by just the bound would look as bad with a chance below level / tasks. Judged are
tasks with enough labels; those that the calibrator read count too, for the coverage of intervals
is itself only known from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from m3h_core.grouped import effective_count
from m3h_pipeline.evaluation.scores import find_judged_rows
from m3h_pipeline.registry.gate.scoring import Predictions
from m3h_pipeline.registry.gate.verdict import CheckResult, format_first
from m3h_pipeline.wording import format_number, pluralize

if TYPE_CHECKING:
    from m3h_core import Calibrator, Cohort, FoldCalibrators, TaskSpec
    from m3h_pipeline.config import GateConfig

_NAME = "calibrated"
# From so many labels on a task is judged: ten in each of the error's ten bins.
_FEWEST_LABELS = 100
_MAX_DRAWS = 10_000
_MAX_CELLS = 20_000_000


@dataclass(frozen=True)
class TaskCalibration:
    """One task: the ``estimate`` of its calibration error, or of the coverage of its intervals, and
    what it shows.

    ``state``: within the bound, above it in the estimate, shown to be above it, or not judged for
    want of labels.
    """

    task: str
    kind: Literal["error", "coverage"]
    n: int | None
    estimate: float | None
    state: Literal["within", "above", "shown", "not judged"]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with six digits."""
        estimate = None if self.estimate is None else round(self.estimate, 6)
        return asdict(self) | {"estimate": estimate}


def check_calibration(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    candidate: Predictions,
    calibrator: Calibrator | FoldCalibrators,
    config: GateConfig,
) -> tuple[CheckResult, list[TaskCalibration]]:
    """The result, and what each task shows."""
    supervised = [task for task in tasks if task.problem != "clustering"]
    if not supervised:
        return CheckResult(_NAME, True, "no task to judge"), []
    predictions = {task.name: np.asarray(candidate[task.name]) for task in supervised}
    try:
        probabilities = calibrator.calibrated(predictions)
        intervals = calibrator.intervals(predictions)
    except ValueError as error:
        return CheckResult(
            _NAME, False, str(error), advice="look at the log of the training job"
        ), []
    rows = {task.name: find_judged_rows(cohort, task) for task in supervised}
    judged = [task for task in supervised if len(rows[task.name]) >= _FEWEST_LABELS]
    chance = config.level / max(1, len(judged))
    rng = np.random.default_rng(0)
    subjects = cohort.subjects
    calibrations = []
    for task in supervised:
        at = rows[task.name]
        if task not in judged:
            calibrations.append(
                TaskCalibration(task.name, _get_kind(task), None, None, "not judged")
            )
            continue
        target = np.asarray(cohort.labels[task.name])[at]
        if task.problem == "regression":
            low, high = intervals[task.name][at].T
            inside = (target >= low) & (target <= high)
            bound = calibrator.coverage - config.calibration_error
            p_value = compute_coverage_p_value(
                inside, bound, calibrator.about[task.name].n, subjects[at]
            )
            estimate = float(inside.mean())
            is_above = bool(inside.mean() < bound)
        else:
            predicted = probabilities[task.name][at]
            estimate, p_value = _measure_error(task, target, predicted, subjects[at], config, rng)
            is_above = estimate > config.calibration_error
        state = "above" if is_above else "within"
        if is_above and p_value < chance:
            state = "shown"
        calibrations.append(TaskCalibration(task.name, _get_kind(task), len(at), estimate, state))
    return _to_result(calibrations, calibrator.coverage, config), calibrations


def compute_error_p_value(
    probability: np.ndarray,
    error: float,
    allowed: float,
    patients: np.ndarray,
    rng: np.random.Generator,
) -> float:
    """How likely probabilities [n] that are off by ``allowed`` show a calibration error this large,
    or larger.

    They are off towards one half, where chance is largest. Stays of one patient (``patients`` [n])
    are taken to end alike, as diagnoses do: that is less evidence than as many patients would be,
    never more.

    >>> rng, likely = np.random.default_rng(0), np.linspace(0.05, 0.95, 200)
    >>> apart = np.arange(200)
    >>> for error in (0.05, 0.11, 0.3):
    ...     print(round(compute_error_p_value(likely, error, 0.05, apart, rng), 1))
    1.0
    0.2
    0.0
    >>> fifty_patients = apart // 4
    >>> compute_error_p_value(likely, 0.15, 0.05, fifty_patients, rng) > 0.05
    True
    """
    if error <= allowed:
        return 1.0
    bins = np.searchsorted(np.quantile(probability, np.arange(1, 10) / 10), probability)
    towards_half = np.where(probability < 0.5, allowed, -allowed)
    truth = np.clip(probability + towards_half, 0, 1).astype(np.float32)
    _, patient_index = np.unique(patients, return_inverse=True)
    members = np.eye(10, dtype=np.float32)[bins]
    expected = members.T @ probability.astype(np.float32)
    draws = max(1000, min(_MAX_DRAWS, _MAX_CELLS // len(probability)))
    n_larger = 0
    for at in range(0, draws, 1000):
        some_draws = min(1000, draws - at)
        uniform = rng.random((some_draws, int(patient_index.max()) + 1), dtype=np.float32)
        happened = (uniform[:, patient_index] < truth).astype(np.float32)
        errors = np.abs(happened @ members - expected).sum(axis=1) / len(probability)
        n_larger += int((errors >= error).sum())
    return n_larger / draws


def compute_coverage_p_value(
    inside: np.ndarray,
    bound: float,
    n_calibration: int,
    patients: np.ndarray,
) -> float:
    """How likely intervals that hold the truth as often as ``bound`` were seen to hold it as
    seldom, or more seldom.

    ``inside`` [n]; what the intervals' ends were found from, ``n_calibration`` labels, is as much a
    matter of chance as what they are tried on. Stays of one patient count for as much as they tell.

    >>> inside = np.arange(100) < 70
    >>> [round(compute_coverage_p_value(inside, 0.85, n, np.arange(100)), 3) for n in (50, 10_000)]
    [0.018, 0.0]
    """
    from scipy.stats import betabinom

    count = max(1, round(effective_count(inside, patients)))
    n_inside = int(np.floor(inside.mean() * count + 1e-9))
    weight = n_calibration + 1
    return float(betabinom.cdf(n_inside, count, bound * weight, (1 - bound) * weight))


def _measure_error(
    task: TaskSpec,
    target: np.ndarray,
    predicted: np.ndarray,
    patients: np.ndarray,
    config: GateConfig,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """The calibration error of a task's probabilities, of the likeliest class where there are
    several; its chance."""
    from m3h_core.metrics import calibration_error

    if task.problem == "binary":
        happened = target == 1
        probability = predicted
    else:
        happened = predicted.argmax(1) == target
        probability = predicted.max(1)
    error = calibration_error(happened, probability)
    return error, compute_error_p_value(probability, error, config.calibration_error, patients, rng)


def _to_result(
    calibrations: Sequence[TaskCalibration], coverage: float, config: GateConfig
) -> CheckResult:
    states = [calibration.state for calibration in calibrations]
    judged = len(calibrations) - states.count("not judged")
    counts = {
        "judged": judged,
        "above": states.count("above") + states.count("shown"),
        "shown": states.count("shown"),
        "not judged": states.count("not judged"),
    }
    rest = ""
    if counts["not judged"]:
        few = pluralize(counts["not judged"], "task")
        rest = f"; {few} not judged, fewer than {_FEWEST_LABELS} labels"
    bound = config.calibration_error
    shown = [calibration for calibration in calibrations if calibration.state == "shown"]
    if shown:
        wrong = [_format_estimate(calibration, coverage) for calibration in shown]
        tasks = format_first([calibration.task for calibration in shown])
        advice = f"look at the calibration of {tasks} in the report, or raise "
        advice += "[gate] calibration_error"
        reason = f"not calibrated: {format_first(wrong)}{rest}"
        return CheckResult(_NAME, False, reason, advice=advice, counts=counts)
    if not judged:
        reason = f"no task has enough labels to be judged{rest}"
        return CheckResult(_NAME, True, reason, counts=counts)
    reason = (
        f"{pluralize(judged, 'task')} judged: {counts['above']} off by more than {bound} in the "
        f"estimate, none shown to be{rest}"
    )
    return CheckResult(_NAME, True, reason, counts=counts)


def _format_estimate(calibration: TaskCalibration, coverage: float) -> str:
    if calibration.kind == "coverage":
        return (
            f"{calibration.task} ({calibration.estimate:.0%} within intervals for {coverage:.0%})"
        )
    return f"{calibration.task} (error {format_number(calibration.estimate)})"


def _get_kind(task: TaskSpec) -> Literal["error", "coverage"]:
    return "coverage" if task.problem == "regression" else "error"
