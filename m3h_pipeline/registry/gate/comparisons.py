"""The checks that compare: with a constant, with the champion and the anchor, with the night's
arms, in subgroups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from m3h_core.data.cohort import TEST
from m3h_pipeline.evaluation.scores import explain_no_claim
from m3h_pipeline.registry.gate.rules import compare, compute_mean_bounds
from m3h_pipeline.registry.gate.scoring import (
    PairedScores,
    Predictions,
    ScoredTask,
    have_same_classes,
    pair,
    score_tasks,
)
from m3h_pipeline.registry.gate.verdict import (
    ARMS,
    CheckResult,
    Comparison,
    ReferenceModel,
    State,
    format_difference,
    format_first,
    format_with_interval,
)
from m3h_pipeline.wording import MIN_GROUP_SIZE, format_number, pluralize

if TYPE_CHECKING:
    from m3h_core import Cohort, TaskSpec
    from m3h_core.metrics import Resamples
    from m3h_pipeline.config import GateConfig

TRIVIAL = {"binary": 0.5, "multiclass": 0.5, "regression": 0.0, "clustering": 0.0}
_ARM_NAMES = {
    "single_task": "the same mixture with single-task networks",
    "trees": "the trees alone",
}


@dataclass(frozen=True)
class Candidate:
    """What is judged: the tasks that can be, the predictions for every sample, and the metrics of
    these tasks."""

    cohort: Cohort
    tasks: Sequence[TaskSpec]
    predictions: Predictions
    draws: Resamples
    scored: Mapping[str, ScoredTask]
    config: GateConfig

    @classmethod
    def score(
        cls,
        cohort: Cohort,
        tasks: Sequence[TaskSpec],
        predictions: Predictions,
        draws: Resamples,
        config: GateConfig,
    ) -> Candidate:
        """A candidate with its metrics."""
        return cls(
            cohort,
            tasks,
            predictions,
            draws,
            score_tasks(cohort, tasks, predictions, draws),
            config,
        )

    def list_shared_tasks(self, other: Predictions) -> list[TaskSpec]:
        """The tasks that another model predicts as well, with the same classes."""
        both = [task for task in self.tasks if task.name in other]
        return [task for task in both if have_same_classes(task, self.predictions, other)]

    def pair_with(self, other: Predictions) -> PairedScores:
        """The scores beside those of another model, on the tasks that are shared."""
        return pair(
            self.scored, score_tasks(self.cohort, self.list_shared_tasks(other), other, self.draws)
        )


def check_better_than_trivial(
    candidate: Candidate, intervals: Mapping[str, tuple[float, float]]
) -> tuple[CheckResult, list[Comparison]]:
    """Refuted is a task whose own 95% interval lies below a constant's score, or that gains nothing
    at all.

    ``intervals``: those that the report shows; a task that has none gets one from the resamples.
    """
    from m3h_core.metrics import interval

    name = "better_than_trivial"
    config = candidate.config
    if not candidate.scored:
        return CheckResult(name, True, "no task to judge"), []
    floors = {task.name: TRIVIAL[task.problem] for task in candidate.tasks}
    scored = candidate.scored.items()
    tasks = [(task, score.metric, score.value, floors[task]) for task, score in scored]
    gains = np.stack([score.replicates - floors[task] for task, score in scored], axis=1)
    own = {task: intervals.get(task) or interval(score.replicates) for task, score in scored}
    varies = dict(zip(candidate.scored, np.nanstd(gains, axis=0) > 0, strict=True))
    comparisons = []
    for comparison in compare(tasks, gains, 0.0, config.level):
        high = own[comparison.task][1] - comparison.other
        below = high < 0 and comparison.difference < -config.trivial_margin
        gains_nothing = not varies[comparison.task] and comparison.difference <= 0
        state: State = "shown" if comparison.low > 0 else "open"
        if below or gains_nothing:
            state = "refuted"
        comparisons.append(replace(comparison, high=high, state=state))
    differences = np.array([comparison.difference for comparison in comparisons])
    low, _ = compute_mean_bounds(differences, gains, config.level)
    problems: list[str] = []
    advice: list[str] = []
    refuted = [
        format_with_interval(comparison, own[comparison.task])
        for comparison in _select(comparisons, "refuted")
    ]
    if refuted:
        problems.append(f"worse than a constant, or no better: {format_first(refuted)}")
        advice.append(
            f"look at {_format_refuted(comparisons)} in the report; a task that can't be learned "
            "is better left out of the cohort's tasks, or [gate] trivial_margin is raised"
        )
    unsure = [
        format_with_interval(comparison, own[comparison.task])
        for comparison in _select(comparisons, "open")
    ]
    if config.strict and unsure:
        problems.append(f"not shown to be better than a constant: {format_first(unsure)}")
        advice.append("set [gate] strict = false, or leave these tasks out of the cohort's tasks")
    if not config.strict and low <= 0:
        problems.append(
            "all tasks together are not shown to be better than constants (lower bound of the mean "
            f"gain {format_number(low, sign=True)})"
        )
        advice.append("look at the report's data checks: next to nothing was learned")
    shown_to_be = "shown to be better than a constant"
    return _to_result(name, comparisons, problems, advice, shown_to_be), comparisons


def check_not_worse_than_champion(
    candidate: Candidate, champion: ReferenceModel | None
) -> tuple[list[TaskSpec], CheckResult, list[Comparison]]:
    """The tasks that both predict alike, the result, and the comparisons."""
    name = "not_worse_than_champion"
    if champion is None:
        return [], CheckResult(name, True, "there is no champion yet"), []
    who = f"version {champion.version}"
    if champion.problem:
        reason = f"not comparable with the champion ({who}): {champion.problem}"
        advice = "make another version the champion, or approve this one by hand"
        return [], CheckResult(name, False, reason, advice=advice), []
    missing = sorted(set(champion.predictions) - set(candidate.predictions))
    if missing:
        advice = "bring these tasks back into the cohort, if they were not dropped on purpose"
        reason = f"the champion ({who}) also predicts {format_first(missing)}"
        return [], CheckResult(name, False, reason, advice=advice), []
    pairs = candidate.pair_with(champion.predictions)
    if not pairs.tasks:
        shared = candidate.list_shared_tasks(champion.predictions)
        return shared, CheckResult(name, True, f"no claimed task is shared with {who}"), []
    result, comparisons = compare_with(name, candidate.config, pairs, who, must_be_shown=True)
    return candidate.list_shared_tasks(champion.predictions), result, comparisons


def check_not_worse_than_anchor(
    candidate: Candidate,
    anchor: ReferenceModel | None,
    champion: ReferenceModel | None,
) -> CheckResult:
    """The same against the version that stays in its place while champions come and go.

    One that can't be applied any more is told and rejects nothing: it would reject every night.
    """
    name = "not_worse_than_anchor"
    if anchor is None:
        reason = "there is no anchor yet: the first version that is approved becomes it"
        return CheckResult(name, True, reason)
    who = f"version {anchor.version}, the anchor"
    if champion is not None and champion.version == anchor.version:
        return CheckResult(name, True, f"{who}, is the champion, judged there")
    move = "`m3h review anchor VERSION` makes another version the anchor"
    if anchor.problem:
        return CheckResult(
            name, False, f"not comparable with {who}: {anchor.problem}", "warn", move
        )
    if not candidate.scored:
        return CheckResult(name, True, "no task to judge")
    pairs = candidate.pair_with(anchor.predictions)
    if not pairs.tasks:
        return CheckResult(name, False, f"no claimed task is shared with {who}", "warn", move)
    result, _ = compare_with(name, candidate.config, pairs, who, must_be_shown=True)
    return result


def check_not_worse_than_arm(
    candidate: Candidate, arm: str, predictions: Predictions | None
) -> CheckResult:
    """Against another arm of the same night: clearly below it is what is refuted; nothing must be
    shown.

    Clustering is left out: no label says which groups are right, and a network that does nothing
    but cluster draws tighter ones than a network whose layers serve other tasks too.
    """
    name = f"not_worse_than_{arm}"
    supervised = [task for task in candidate.tasks if task.problem != "clustering"]
    compared = replace(candidate, tasks=supervised)
    pairs = compared.pair_with(predictions) if predictions is not None else None
    if pairs is None or not pairs.tasks:
        return CheckResult(
            name, True, f"no claimed task is shared with {_ARM_NAMES[arm]}", ARMS[arm]
        )
    result, _ = compare_with(name, candidate.config, pairs, _ARM_NAMES[arm], must_be_shown=False)
    return replace(result, severity=ARMS[arm])


def check_no_subgroup_harmed(
    candidate: Candidate,
    shared: Sequence[TaskSpec],
    champion: ReferenceModel | None,
) -> CheckResult:
    """Against the champion within each group of the audit columns; only what is refuted counts."""
    name = "no_subgroup_harmed"
    config = candidate.config
    cohort = candidate.cohort
    if champion is None:
        return CheckResult(name, True, "there is no champion yet to lose against")
    if champion.problem:
        return CheckResult(name, False, "not comparable with the champion")
    if not cohort.groups:
        return CheckResult(name, True, "no column is declared for audits")
    tasks: list[tuple[str, str, float, float]] = []
    differences: list[np.ndarray] = []
    small = 0
    supervised = [task for task in shared if task.problem != "clustering"]
    for attribute, of_row in cohort.groups.items():
        for group in sorted(set(of_row)):
            inside = np.asarray(of_row) == group
            if _count_patients(cohort, inside) < MIN_GROUP_SIZE:
                small += 1
                continue
            labelled = {key: mask & inside for key, mask in cohort.labelled.items()}
            part = replace(cohort, labelled=labelled)
            judged = [task for task in supervised if explain_no_claim(part, task) is None]
            ours = score_tasks(part, judged, candidate.predictions, candidate.draws)
            pairs = pair(ours, score_tasks(part, judged, champion.predictions, candidate.draws))
            for task, metric, value, other in pairs.tasks:
                tasks.append((f"{task} ({attribute} {group})", metric, value, other))
            differences.extend(pairs.replicates.T)
    hidden = ""
    if small:
        hidden = (
            f"; {pluralize(small, 'group')} of fewer than {MIN_GROUP_SIZE} patients not looked at"
        )
    if not tasks:
        return CheckResult(name, True, f"no subgroup has enough labels to be judged{hidden}")
    comparisons = compare(
        tasks, np.stack(differences, axis=1), config.subgroup_margin, config.level
    )
    problems: list[str] = []
    advice: list[str] = []
    harmed = [format_difference(comparison) for comparison in _select(comparisons, "refuted")]
    if harmed:
        problems.append(
            f"shown to lose more than {config.subgroup_margin}: {format_first(harmed)}{hidden}"
        )
        advice.append("look at these groups in the report's audit, or raise [gate] subgroup_margin")
    if problems:
        return _to_result(name, comparisons, problems, advice, "")
    reason = (
        f"{pluralize(len(comparisons), 'comparison')} of a task in a subgroup, none shown to lose "
        f"more than {config.subgroup_margin}{hidden}"
    )
    return CheckResult(name, True, reason, counts=_count_states(comparisons))


def compare_with(
    name: str, config: GateConfig, pairs: PairedScores, who: str, *, must_be_shown: bool
) -> tuple[CheckResult, list[Comparison]]:
    """No task may be refuted, nor their mean; with ``must_be_shown`` the mean (strict: each task)
    must be shown."""
    comparisons = compare(pairs.tasks, pairs.replicates, config.margin, config.level)
    mean = float(pairs.differences.mean())
    low, high = compute_mean_bounds(pairs.differences, pairs.replicates, config.level)
    problems: list[str] = []
    advice: list[str] = []
    refuted = [format_difference(comparison) for comparison in _select(comparisons, "refuted")]
    if refuted:
        problems.append(
            f"shown to lose more than {config.margin} against {who}: {format_first(refuted)}"
        )
        advice.append(
            f"look at {_format_refuted(comparisons)} in the report, or raise [gate] margin"
        )
    unsure = [format_difference(comparison) for comparison in _select(comparisons, "open")]
    if must_be_shown and config.strict and unsure:
        problems.append(
            f"not shown to keep within {config.margin} of {who}: {format_first(unsure)}"
        )
        advice.append("set [gate] strict = false: there are too few patients to show each task")
    if high < 0 and mean < -config.mean_margin:
        problems.append(
            f"the mean of {pluralize(len(comparisons), 'task')} is shown to be below "
            f"that of {who}: {format_number(mean, sign=True)} "
            f"(upper bound {format_number(high, sign=True)})"
        )
        advice.append("many tasks have lost a little: see the report; or raise [gate] mean_margin")
    elif must_be_shown and not config.strict and low < -config.margin:
        problems.append(
            f"the mean of {pluralize(len(comparisons), 'task')} is not shown to keep within "
            f"{config.margin} of {who} (lower bound {format_number(low, sign=True)})"
        )
        advice.append("more patients can tell; or raise [gate] margin")
    shown_to_be = f"shown to keep within {config.margin} of {who}"
    return _to_result(name, comparisons, problems, advice, shown_to_be), comparisons


def _to_result(
    name: str,
    comparisons: Sequence[Comparison],
    problems: Sequence[str],
    advice: Sequence[str],
    shown_to_be: str,
) -> CheckResult:
    counts = _count_states(comparisons)
    if problems:
        return CheckResult(
            name, False, "; ".join(problems), advice="; ".join(advice), counts=counts
        )
    rest = f"; {pluralize(counts['open'], 'task')} too uncertain to tell" if counts["open"] else ""
    reason = f"{pluralize(counts['shown'], 'task')} {shown_to_be}{rest}"
    return CheckResult(name, True, reason, counts=counts)


def _count_states(comparisons: Sequence[Comparison]) -> dict[str, int]:
    states = [comparison.state for comparison in comparisons]
    by_state = {state: states.count(state) for state in ("shown", "open", "refuted")}
    return {"judged": len(comparisons)} | by_state


def _select(comparisons: Sequence[Comparison], state: State) -> list[Comparison]:
    return [comparison for comparison in comparisons if comparison.state == state]


def _format_refuted(comparisons: Sequence[Comparison]) -> str:
    return format_first([comparison.task for comparison in _select(comparisons, "refuted")])


def _count_patients(cohort: Cohort, inside: np.ndarray) -> int:
    rows = cohort.rows(TEST)
    return len(np.unique(cohort.subjects[rows[inside[rows]]]))
