"""The gate: what a candidate must hold before a person is asked whether it may become the champion.

Pure functions of predictions on the test split; who asks, and what follows, is elsewhere (defs/registry, review.py).
Judged are the tasks that can be claimed. Candidate and champion are scored on the same samples and the same resamples
of patients. One rule serves every comparison, with bounds that hold for all tasks at once (max-t):

- no task may be *refuted*: shown to have lost more than the margin (upper bound below -margin)
- all tasks together, their mean, must be *shown* to keep it (lower bound not below -margin); with ``strict`` each task

Between the two a task is *open*: the test split is too small to tell, and the model card says so.

Shapes: N samples, T tasks, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from m3h_pipeline.reports.quality import too_few
from m3h_pipeline.reports.words import FEWEST, listing, number, plural

if TYPE_CHECKING:
    from m3h_core import Calibrator, Cohort, TaskSpec
    from m3h_core.metrics import Resamples
    from m3h_pipeline.config import GateConfig

CHECKS = {
    "finite": "Every prediction on the test split is a number, and so is every claimed task's metric.",
    "better_than_trivial": "Claimed tasks do better than a model that knows nothing of the patient.",
    "not_worse_than_champion": "No claimed task loses more than the margin against the champion, on the same patients.",
    "calibrated": "Probabilities mean what they say, and intervals hold the truth as often as stated.",
    "no_subgroup_harmed": "In no audited subgroup a claimed task loses more than the margin against the champion.",
}
TRIVIAL = {"binary": 0.5, "multiclass": 0.5, "regression": 0.0, "clustering": 0.0}
_SIMULATED = 10_000
# A metric that is undefined in more of the resamples has no bounds worth the name.
_DEFINED = 0.9

State = Literal["shown", "open", "refuted"]
Predictions = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Verdict:
    """One check: whether it passed, and why, in words without any patient's value."""

    name: str
    passed: bool
    reason: str


@dataclass(frozen=True)
class Compared:
    """One task against trivial or against the champion: ``value`` minus ``other`` with simultaneous bounds."""

    task: str
    metric: str
    value: float
    other: float
    low: float
    high: float
    state: State


@dataclass(frozen=True)
class Champion:
    """What the candidate is compared with: its version, and its predictions {task: [N] or [N, C]}.

    ``problem`` says why it has none, where it could not be applied to these samples.
    """

    version: str
    predictions: Predictions
    problem: str = ""


def judge(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    candidate: Predictions,
    calibrator: Calibrator,
    champion: Champion | None,
    config: GateConfig,
) -> dict[str, Any]:
    """All checks of a candidate, JSON-ready: ``passed``, ``judged`` (tasks), ``champion``, ``checks``, ``tasks``.

    ``calibrator`` is the one that the candidate travels with: judged is what people will read.

    ``tasks`` of the result hold each task's comparison with the champion, ``trivial`` those with trivial.
    """
    from m3h_core.cohort import TEST
    from m3h_core.metrics import Resamples

    draws = Resamples(cohort, TEST, config.bootstrap, 0)
    claimed = [task for task in tasks if too_few(cohort, task) is None]
    finite = _finite(cohort, tasks, claimed, candidate)
    sound = [task for task in claimed if finite.passed or _is_finite(cohort, task, candidate)]
    trivial, against_trivial = _better_than_trivial(cohort, sound, candidate, draws, config)
    shared, not_worse, against_champion = _not_worse(cohort, sound, candidate, champion, draws, config)
    checks = [
        finite,
        trivial,
        not_worse,
        _calibrated(cohort, sound, candidate, calibrator, config),
        _no_subgroup_harmed(cohort, shared, candidate, champion, draws, config),
    ]
    return {
        "passed": all(check.passed for check in checks),
        "judged": len(claimed),
        "champion": champion.version if champion else None,
        "checks": [asdict(check) for check in checks],
        "trivial": [_rounded(compared) for compared in against_trivial],
        "tasks": [_rounded(compared) for compared in against_champion],
    }


def compare(
    named: Sequence[tuple[str, str, float, float]], replicates: np.ndarray, margin: float, level: float
) -> list[Compared]:
    """The rule for each of T comparisons (task, metric, value, other), with replicates [R, T] of their differences.

    >>> draws = np.random.default_rng(0).normal([-0.1, 0.0, 0.0], [0.01, 0.2, 0.001], size=(2000, 3))
    >>> found = compare([("a", "AUROC", 0.7, 0.8), ("b", "AUROC", 0.8, 0.8), ("c", "R2", 0.5, 0.5)], draws, 0.02, 0.05)
    >>> [compared.state for compared in found]
    ['refuted', 'open', 'shown']
    """
    from m3h_core.metrics import simultaneous_bounds

    if not named:
        return []
    values = np.array([value - other for _, _, value, other in named])
    lows, highs = simultaneous_bounds(values, replicates, level)
    found = []
    for (task, metric, value, other), low, high in zip(named, lows.tolist(), highs.tolist(), strict=True):
        state: State = "refuted" if high < -margin else "shown" if low >= -margin else "open"
        found.append(Compared(task, metric, value, other, low, high, state))
    return found


def mean_low(values: np.ndarray, replicates: np.ndarray, level: float) -> float:
    """The one-sided lower bound of the mean of T differences, with replicates [R, T].

    >>> draws = np.random.default_rng(0).normal(0.1, 0.1, size=(2000, 25))
    >>> round(mean_low(np.full(25, 0.1), draws, 0.05), 2)
    0.07
    """
    from m3h_core.metrics import simultaneous_bounds

    means = np.nanmean(replicates, axis=1, keepdims=True)
    return float(simultaneous_bounds(np.array([np.mean(values)]), means, level)[0][0])


def chance_of_error(
    probability: np.ndarray, error: float, allowed: float, patients: np.ndarray, rng: np.random.Generator
) -> float:
    """How likely probabilities [n] that are off by ``allowed`` show a calibration error this large, or larger.

    The ten bins of the error are those of the probabilities, each off by as much. What happens in a bin is taken as
    normal, close enough for errors that are worth a rejection. Stays of one patient (``patients`` [n]) are taken to end
    alike, as diagnoses do: that is less evidence than as many patients would be, never more.

    >>> rng, likely = np.random.default_rng(0), np.linspace(0.05, 0.95, 200)
    >>> [round(chance_of_error(likely, error, 0.05, np.arange(200), rng), 1) for error in (0.05, 0.1, 0.3)]
    [1.0, 0.2, 0.0]
    >>> chance_of_error(likely, 0.15, 0.05, np.arange(200) // 4, rng) > 0.05  # fifty patients of four stays each
    True
    """
    from scipy.sparse import csr_array

    bins = np.searchsorted(np.quantile(probability, np.arange(1, 10) / 10), probability)
    whose = np.unique(patients, return_inverse=True)[1]
    stays = csr_array((np.ones(len(whose)), (whose, np.arange(len(whose)))))
    one, other = (stays.T @ stays).nonzero()
    covariance = np.zeros((10, 10))
    both = np.minimum(probability[one], probability[other])
    np.add.at(covariance, (bins[one], bins[other]), both - probability[one] * probability[other])
    off = allowed * np.bincount(bins, minlength=10)
    simulated = np.abs(rng.multivariate_normal(off, covariance, _SIMULATED)).sum(axis=1) / len(probability)
    return float((simulated >= error).mean())


def _is_finite(cohort: Cohort, task: TaskSpec, predictions: Predictions) -> bool:
    from m3h_core.cohort import CALIBRATION, TEST

    rows = np.concatenate([cohort.rows(CALIBRATION), cohort.rows(TEST)])
    return task.name in predictions and bool(np.isfinite(np.asarray(predictions[task.name])[rows]).all())


def _finite(cohort: Cohort, tasks: Sequence[TaskSpec], claimed: Sequence[TaskSpec], candidate: Predictions) -> Verdict:
    from m3h_core.metrics import primary_metric

    wrong = [task.name for task in tasks if not _is_finite(cohort, task, candidate)]
    undefined = [
        task.name
        for task in claimed
        if task.name not in wrong and not np.isfinite(primary_metric(cohort, task, candidate[task.name]))
    ]
    if wrong or undefined:
        said = [f"predictions that are not numbers: {_some(wrong)}"] if wrong else []
        said += [f"no metric: {_some(undefined)}"] if undefined else []
        return Verdict("finite", False, "; ".join(said))
    nothing = "" if claimed else "; no task has enough test labels to be judged, so the other checks say nothing"
    return Verdict("finite", True, f"all predictions of {plural(len(tasks), 'task')} are numbers{nothing}")


def _better_than_trivial(
    cohort: Cohort, tasks: Sequence[TaskSpec], candidate: Predictions, draws: Resamples, config: GateConfig
) -> tuple[Verdict, list[Compared]]:
    name = "better_than_trivial"
    scored = _scored(cohort, tasks, candidate, draws)
    if not scored:
        return Verdict(name, True, "no task to judge"), []
    floor = {task.name: TRIVIAL[task.problem] for task in tasks}
    named = [(task, one.metric, one.value, floor[task]) for task, one in scored.items()]
    gains = np.stack([one.replicates - floor[task] for task, one in scored.items()], axis=1)
    found = compare(named, gains, 0.0, config.level)
    # A task that gains nothing, such as a constant prediction, is refuted too.
    found = [replace(one, state="refuted") if one.high <= 0 else one for one in found]
    low = mean_low(np.array([one.value - one.other for one in found]), gains, config.level)
    return _ruled(name, found, low, low > 0, config.strict, "better than trivial"), found


def _not_worse(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    candidate: Predictions,
    champion: Champion | None,
    draws: Resamples,
    config: GateConfig,
) -> tuple[list[TaskSpec], Verdict, list[Compared]]:
    """The tasks that both predict alike, the verdict, and the comparison."""
    name = "not_worse_than_champion"
    if champion is None:
        return [], Verdict(name, True, "there is no champion yet"), []
    if champion.problem:
        return [], Verdict(name, False, f"not comparable with the champion (version {champion.version}): "
                           f"{champion.problem}"), []  # fmt: skip
    theirs = champion.predictions
    if missing := sorted(set(theirs) - set(candidate)):
        return [], Verdict(name, False, f"the champion (version {champion.version}) also predicts {_some(missing)}"), []
    shared = [task for task in tasks if task.name in theirs and _alike(task, candidate, theirs)]
    pairs = _paired(cohort, shared, candidate, theirs, draws)
    if not pairs:
        return shared, Verdict(name, True, f"no claimed task is shared with version {champion.version}"), []
    named = [(task, ours.metric, ours.value, other.value) for task, ours, other in pairs]
    differences = np.stack([ours.replicates - other.replicates for _, ours, other in pairs], axis=1)
    found = compare(named, differences, config.margin, config.level)
    low = mean_low(np.array([one.value - one.other for one in found]), differences, config.level)
    what = f"within {config.margin} of version {champion.version} or better"
    return shared, _ruled(name, found, low, low >= -config.margin, config.strict, what), found


def _alike(task: TaskSpec, candidate: Predictions, champion: Predictions) -> bool:
    """Whether both predict the same classes; clusters are judged by their silhouette, however many there are."""
    ours, theirs = (np.shape(predictions[task.name])[1:] for predictions in (candidate, champion))
    return task.problem == "clustering" or ours == theirs


def _ruled(name: str, found: Sequence[Compared], low: float, mean_shown: bool, strict: bool, what: str) -> Verdict:
    """The rule over all tasks: none refuted, and their mean (strict: each) shown."""
    refuted, opened = ([one for one in found if one.state == state] for state in ("refuted", "open"))
    said = []
    if refuted:
        said.append(f"shown not to be {what}: {_some([_named(one) for one in refuted])}")
    if strict and opened:
        said.append(f"not shown to be {what}: {_some([_named(one) for one in opened])}")
    if not strict and not mean_shown:
        said.append(f"all tasks together are not shown to be {what} (lower bound of the mean {number(low, sign=True)})")
    if said:
        return Verdict(name, False, "; ".join(said))
    shown = len(found) - len(opened)
    rest = f"; {plural(len(opened), 'task')} too uncertain to tell" if opened else ""
    return Verdict(name, True, f"{plural(shown, 'task')} shown to be {what}{rest}")


def _calibrated(
    cohort: Cohort, tasks: Sequence[TaskSpec], candidate: Predictions, calibrator: Calibrator, config: GateConfig
) -> Verdict:
    """Refuted is a task that is shown, among so many, to be off by more than the bound."""
    from scipy.stats import binom

    from m3h_core.cohort import TEST
    from m3h_core.metrics import calibration_error

    judged = [task for task in tasks if task.problem != "clustering"]
    mine = {task.name: np.asarray(candidate[task.name]) for task in judged}
    if not judged:
        return Verdict("calibrated", True, "no task to judge")
    try:
        calibrated, ends = calibrator.calibrated(mine), calibrator.intervals(mine)
    except ValueError as error:
        return Verdict("calibrated", False, str(error))
    chance = config.level / len(judged)
    rng = np.random.default_rng(0)
    patients = np.asarray(cohort.subject_ids if cohort.subject_ids is not None else cohort.sample_ids)
    wrong: list[str] = []
    for task in judged:
        rows = np.flatnonzero((cohort.split == TEST) & np.asarray(cohort.labelled[task.name]))
        target, said = np.asarray(cohort.labels[task.name])[rows], calibrated[task.name][rows]
        if task.problem == "regression":
            inside = (target >= ends[task.name][rows, 0]) & (target <= ends[task.name][rows, 1])
            if binom.cdf(inside.sum(), len(rows), calibrator.coverage - config.calibration_error) < chance:
                wrong.append(f"{task.name} ({inside.mean():.0%} within intervals for {calibrator.coverage:.0%})")
            continue
        happened, probability = (
            (target == 1, said) if task.problem == "binary" else (said.argmax(1) == target, said.max(1))
        )
        error = calibration_error(happened, probability)
        if chance_of_error(probability, error, config.calibration_error, patients[rows], rng) < chance:
            wrong.append(f"{task.name} (error {number(error)})")
    if wrong:
        return Verdict("calibrated", False, f"not calibrated: {_some(wrong)}")
    return Verdict("calibrated", True, f"{plural(len(judged), 'task')} judged; none is shown to be off by more "
                   f"than {config.calibration_error}")  # fmt: skip


def _no_subgroup_harmed(
    cohort: Cohort,
    shared: Sequence[TaskSpec],
    candidate: Predictions,
    champion: Champion | None,
    draws: Resamples,
    config: GateConfig,
) -> Verdict:
    name = "no_subgroup_harmed"
    if champion is None:
        return Verdict(name, True, "there is no champion yet to lose against")
    if champion.problem:
        return Verdict(name, False, "not comparable with the champion")
    if not cohort.groups:
        return Verdict(name, True, "no column is declared for audits")
    named, differences, small = [], [], 0
    supervised = [task for task in shared if task.problem != "clustering"]
    for attribute, of_row in cohort.groups.items():
        for group in sorted(set(of_row)):
            inside = np.asarray(of_row) == group
            if _patients(cohort, inside) < FEWEST:
                small += 1
                continue
            part = replace(cohort, labelled={key: mask & inside for key, mask in cohort.labelled.items()})
            tasks = [task for task in supervised if too_few(part, task) is None]
            for task, ours, other in _paired(part, tasks, candidate, champion.predictions, draws):
                named.append((f"{task} ({attribute} {group})", ours.metric, ours.value, other.value))
                differences.append(ours.replicates - other.replicates)
    hidden = f"; {plural(small, 'group')} of fewer than {FEWEST} patients not looked at" if small else ""
    if not named:
        return Verdict(name, True, f"no subgroup has enough test labels to be judged{hidden}")
    found = compare(named, np.stack(differences, axis=1), config.subgroup_margin, config.level)
    if harmed := [_named(one) for one in found if one.state == "refuted"]:
        return Verdict(name, False, f"shown to lose more than {config.subgroup_margin}: {_some(harmed)}{hidden}")
    return Verdict(name, True, f"{plural(len(found), 'comparison')} of a task in a subgroup, none shown to lose more "
                   f"than {config.subgroup_margin}{hidden}")  # fmt: skip


def _patients(cohort: Cohort, inside: np.ndarray) -> int:
    from m3h_core.cohort import TEST

    rows = np.flatnonzero(inside & (cohort.split == TEST))
    subjects = cohort.subject_ids if cohort.subject_ids is not None else cohort.sample_ids
    return len({subjects[row] for row in rows})


@dataclass(frozen=True)
class _Scored:
    """A task's metric on the test split, and its replicates [R]."""

    metric: str
    value: float
    replicates: np.ndarray


def _scored(
    cohort: Cohort, tasks: Sequence[TaskSpec], predictions: Predictions, draws: Resamples
) -> dict[str, _Scored]:
    """The tasks whose metric is defined, in their order."""
    from m3h_core.metrics import METRICS, primary_metric, primary_replicates

    found = {}
    for task in tasks:
        prediction = np.asarray(predictions[task.name])
        one = _Scored(
            METRICS[task.problem],
            primary_metric(cohort, task, prediction),
            primary_replicates(cohort, task, prediction, draws),
        )
        if np.isfinite(one.value) and np.isfinite(one.replicates).mean() >= _DEFINED:
            found[task.name] = one
    return found


def _paired(
    cohort: Cohort, tasks: Sequence[TaskSpec], candidate: Predictions, champion: Predictions, draws: Resamples
) -> list[tuple[str, _Scored, _Scored]]:
    """Name, the candidate's and the champion's metric of the tasks for which both are defined."""
    ours, theirs = (_scored(cohort, tasks, predictions, draws) for predictions in (candidate, champion))
    return [(name, ours[name], theirs[name]) for name in ours if name in theirs]


def _named(one: Compared) -> str:
    return f"{one.task} ({number(one.value - one.other, sign=True)})"


def _some(words: Sequence[str], most: int = 6) -> str:
    rest = [f"{len(words) - most} more"] if len(words) > most else []
    return listing([*words[:most], *rest])


def _rounded(compared: Compared) -> dict[str, Any]:
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(compared).items()}
