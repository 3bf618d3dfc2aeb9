"""All checks of a candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from m3h_core.data.cohort import CALIBRATION, TEST
from m3h_core.metrics import Resamples
from m3h_pipeline.evaluation.scores import explain_no_claim
from m3h_pipeline.registry.gate.calibration import check_calibration
from m3h_pipeline.registry.gate.comparisons import (
    Candidate,
    check_better_than_trivial,
    check_no_subgroup_harmed,
    check_not_worse_than_anchor,
    check_not_worse_than_arm,
    check_not_worse_than_champion,
)
from m3h_pipeline.registry.gate.scoring import Predictions
from m3h_pipeline.registry.gate.verdict import ARMS, CheckResult, ReferenceModel, format_first
from m3h_pipeline.wording import pluralize

if TYPE_CHECKING:
    from m3h_core import Calibrator, Cohort, FoldCalibrators, TaskSpec
    from m3h_pipeline.config import GateConfig

CHECKS = {
    "finite": "Every prediction that is judged is a number, so is every claimed task's metric.",
    "better_than_trivial": "Claimed tasks do better than what knows nothing of the patient.",
    "not_worse_than_champion": "No claimed task loses more than the margin against the champion, "
    "on the same patients, and all together lose nothing that can be shown.",
    "not_worse_than_anchor": "The same against the anchor, a version that stays, so that small "
    "losses can't add up.",
    "not_worse_than_single_task": "Not clearly below the same mixture with tonight's single-task "
    "networks, clustering aside.",
    "not_worse_than_trees": "Not clearly below tonight's boosted trees alone.",
    "calibrated": "Probabilities mean what they say, intervals hold the truth as often as stated.",
    "no_subgroup_harmed": "In no audited subgroup a claimed task loses more than the margin "
    "against the champion.",
}


def judge(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    candidate: Predictions,
    calibrator: Calibrator | FoldCalibrators,
    champion: ReferenceModel | None,
    config: GateConfig,
    *,
    anchor: ReferenceModel | None = None,
    arms: Mapping[str, Predictions] | None = None,
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, Any]:
    """All checks of a candidate, JSON-ready: ``passed``, ``judged`` (tasks), ``champion``,
    ``anchor``, ``checks``, ``tasks``, ``trivial``, ``calibration``.

    ``calibrator`` is the one that the candidate travels with: judged is what people will read.
    ``arms``: predictions of the night's other arms by name; ``intervals``: the 95% intervals of the
    candidate's metrics as the report shows them.

    ``tasks`` of the result hold each task's comparison with the champion, ``trivial`` those with
    trivial.
    """
    claimed = [task for task in tasks if explain_no_claim(cohort, task) is None]
    finite = _check_finite(cohort, tasks, claimed, candidate)
    sound = [task for task in claimed if finite.passed or _is_finite(cohort, task, candidate)]
    draws = Resamples(cohort, TEST, config.bootstrap, 0)
    scored = Candidate.score(cohort, sound, candidate, draws, config)
    trivial, against_trivial = check_better_than_trivial(scored, intervals or {})
    beside_champion = _narrow(scored, champion)
    beside_anchor = _narrow(scored, anchor)
    shared, not_worse, against_champion = check_not_worse_than_champion(beside_champion, champion)
    not_drifted = check_not_worse_than_anchor(beside_anchor, anchor, champion)
    subgroups = check_no_subgroup_harmed(beside_champion, shared, champion)
    calibration, of_tasks = check_calibration(cohort, sound, candidate, calibrator, config)
    checks = [
        finite,
        trivial,
        _tell_narrowing(not_worse, scored, beside_champion),
        _tell_narrowing(not_drifted, scored, beside_anchor),
        *(check_not_worse_than_arm(scored, arm, (arms or {}).get(arm)) for arm in ARMS),
        calibration,
        _tell_narrowing(subgroups, scored, beside_champion),
    ]
    return {
        "passed": not any(check.rejects for check in checks),
        "judged": len(claimed),
        "champion": champion.version if champion else None,
        "anchor": anchor.version if anchor else None,
        "checks": [asdict(check) for check in checks],
        "trivial": [one.to_dict() for one in against_trivial],
        "tasks": [one.to_dict() for one in against_champion],
        "calibration": [one.to_dict() for one in of_tasks],
    }


def _narrow(candidate: Candidate, other: ReferenceModel | None) -> Candidate:
    """The candidate on the samples that another version can be judged by: of one that was trained
    without folds the test split, since it may have seen all others.
    """
    cohort = candidate.cohort
    if cohort.fold is None or other is None or other.has_folds:
        return candidate
    narrowed = replace(cohort, fold=None)
    tasks = [task for task in candidate.tasks if explain_no_claim(narrowed, task) is None]
    draws = Resamples(narrowed, TEST, candidate.config.bootstrap, 0)
    return Candidate.score(narrowed, tasks, candidate.predictions, draws, candidate.config)


def _tell_narrowing(result: CheckResult, whole: Candidate, compared: Candidate) -> CheckResult:
    """The result, which also says so where fewer samples were compared than the candidate is judged
    by.
    """
    if compared is whole or not result.counts:
        return result
    where = "on the test split alone, since that version was trained without folds"
    return replace(result, reason=f"{result.reason}; {where}")


def _is_finite(cohort: Cohort, task: TaskSpec, predictions: Predictions) -> bool:
    rows = np.union1d(cohort.rows(CALIBRATION), cohort.rows(TEST))
    if task.name not in predictions:
        return False
    return bool(np.isfinite(np.asarray(predictions[task.name])[rows]).all())


def _check_finite(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    claimed: Sequence[TaskSpec],
    candidate: Predictions,
) -> CheckResult:
    from m3h_core.metrics import primary_metric

    wrong = [task.name for task in tasks if not _is_finite(cohort, task, candidate)]
    sound = [task for task in claimed if task.name not in wrong]
    metrics = {task.name: primary_metric(cohort, task, candidate[task.name]) for task in sound}
    undefined = [name for name, value in metrics.items() if not np.isfinite(value)]
    if wrong or undefined:
        problems = [f"predictions that are not numbers: {format_first(wrong)}"] if wrong else []
        problems += [f"no metric: {format_first(undefined)}"] if undefined else []
        in_question = format_first([*wrong, *undefined])
        advice = f"look at the log of the training job and at the inputs of {in_question}"
        return CheckResult("finite", False, "; ".join(problems), advice=advice)
    reason = f"all predictions of {pluralize(len(tasks), 'task')} are numbers"
    if not claimed:
        reason += "; no task has enough labels to be judged, so the other checks say nothing"
    return CheckResult("finite", True, reason)
