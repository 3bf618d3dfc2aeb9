"""The checks that compare: with a constant, with the champion and the anchor, with the night's
arms, in subgroups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from m3h_pipeline.evaluation.quality import too_few
from m3h_pipeline.registry.gate.rules import compare, mean_bounds
from m3h_pipeline.registry.gate.scoring import (
    Pairs,
    Predictions,
    Scored,
    pair,
    predict_alike,
    score_tasks,
)
from m3h_pipeline.registry.gate.verdict import (
    ARMS,
    Champion,
    Compared,
    State,
    Verdict,
    named,
    some,
    with_interval,
)
from m3h_pipeline.wording import MIN_GROUP_SIZE, format_number, pluralize

if TYPE_CHECKING:
    from m3h_core import Cohort, TaskSpec
    from m3h_core.metrics import Resamples
    from m3h_pipeline.config import GateConfig

TRIVIAL = {"binary": 0.5, "multiclass": 0.5, "regression": 0.0, "clustering": 0.0}
_ARM_NAMES = {"single_task": "the single-task models", "trees": "the trees"}


@dataclass(frozen=True)
class Candidate:
    """What is judged: the tasks that can be, the predictions for every sample, and the metrics of
    these tasks."""

    cohort: Cohort
    tasks: Sequence[TaskSpec]
    predictions: Predictions
    draws: Resamples
    scored: Mapping[str, Scored]
    config: GateConfig

    @classmethod
    def of(
        cls,
        cohort: Cohort,
        tasks: Sequence[TaskSpec],
        predictions: Predictions,
        draws: Resamples,
        config: GateConfig,
    ) -> Candidate:
        """With its metrics."""
        return cls(
            cohort,
            tasks,
            predictions,
            draws,
            score_tasks(cohort, tasks, predictions, draws),
            config,
        )

    def shared(self, other: Predictions) -> list[TaskSpec]:
        """The tasks that another model predicts as well, with the same classes."""
        both = [task for task in self.tasks if task.name in other]
        return [task for task in both if predict_alike(task, self.predictions, other)]

    def paired(self, other: Predictions) -> Pairs:
        """With another model, on the tasks that are shared."""
        return pair(self.scored, score_tasks(self.cohort, self.shared(other), other, self.draws))


def better_than_trivial(
    candidate: Candidate, intervals: Mapping[str, tuple[float, float]]
) -> tuple[Verdict, list[Compared]]:
    """Refuted is a task whose own 95% interval lies below a constant's score, or that gains nothing
    at all.

    ``intervals``: those that the report shows; a task that has none gets one from the resamples.
    """
    from m3h_core.metrics import interval

    name = "better_than_trivial"
    config = candidate.config
    if not candidate.scored:
        return Verdict(name, True, "no task to judge"), []
    floors = {task.name: TRIVIAL[task.problem] for task in candidate.tasks}
    tasks = [(task, one.metric, one.value, floors[task]) for task, one in candidate.scored.items()]
    scored = candidate.scored.items()
    gains = np.stack([one.replicates - floors[task] for task, one in scored], axis=1)
    own = {task: intervals.get(task) or interval(one.replicates) for task, one in scored}
    varies = dict(zip(candidate.scored, np.nanstd(gains, axis=0) > 0, strict=True))
    found = []
    for one in compare(tasks, gains, 0.0, config.level):
        high = own[one.task][1] - one.other
        below = high < 0 and one.difference < -config.trivial_margin
        gains_nothing = not varies[one.task] and one.difference <= 0
        state: State = "shown" if one.low > 0 else "open"
        if below or gains_nothing:
            state = "refuted"
        found.append(replace(one, high=high, state=state))
    low, _ = mean_bounds(np.array([one.difference for one in found]), gains, config.level)
    problems: list[str] = []
    advice: list[str] = []
    if refuted := [with_interval(one, own[one.task]) for one in found if one.state == "refuted"]:
        problems.append(f"worse than a constant, or no better: {some(refuted)}")
        advice.append(
            f"look at {_tasks(found, 'refuted')} in the report; a task that can't be learned is "
            "better left out of the cohort's tasks, or [gate] trivial_margin is raised"
        )
    unsure = [with_interval(one, own[one.task]) for one in found if one.state == "open"]
    if config.strict and unsure:
        problems.append(f"not shown to be better than a constant: {some(unsure)}")
        advice.append("set [gate] strict = false, or leave these tasks out of the cohort's tasks")
    if not config.strict and low <= 0:
        problems.append(
            "all tasks together are not shown to be better than constants (lower bound of the mean "
            f"gain {format_number(low, sign=True)})"
        )
        advice.append("look at the report's data checks: next to nothing was learned")
    return _verdict(name, found, problems, advice, "shown to be better than a constant"), found


def not_worse_than_champion(
    candidate: Candidate, champion: Champion | None
) -> tuple[list[TaskSpec], Verdict, list[Compared]]:
    """The tasks that both predict alike, the verdict, and the comparison."""
    name = "not_worse_than_champion"
    if champion is None:
        return [], Verdict(name, True, "there is no champion yet"), []
    who = f"version {champion.version}"
    if champion.problem:
        reason = f"not comparable with the champion ({who}): {champion.problem}"
        advice = "make another version the champion, or approve this one by hand"
        return [], Verdict(name, False, reason, advice=advice), []
    if missing := sorted(set(champion.predictions) - set(candidate.predictions)):
        advice = "bring these tasks back into the cohort, if they were not dropped on purpose"
        reason = f"the champion ({who}) also predicts {some(missing)}"
        return [], Verdict(name, False, reason, advice=advice), []
    pairs = candidate.paired(champion.predictions)
    if not pairs.tasks:
        shared = candidate.shared(champion.predictions)
        return shared, Verdict(name, True, f"no claimed task is shared with {who}"), []
    verdict, found = held_against(name, candidate.config, pairs, who, must_be_shown=True)
    return candidate.shared(champion.predictions), verdict, found


def not_worse_than_anchor(
    candidate: Candidate,
    anchor: Champion | None,
    champion: Champion | None,
) -> Verdict:
    """The same against the version that stays in its place while champions come and go.

    One that can't be applied any more is told and rejects nothing: it would reject every night.
    """
    name = "not_worse_than_anchor"
    if anchor is None:
        reason = "there is no anchor yet: the first version that is approved becomes it"
        return Verdict(name, True, reason)
    who = f"version {anchor.version}, the anchor"
    if champion is not None and champion.version == anchor.version:
        return Verdict(name, True, f"{who}, is the champion, judged there")
    move = "`m3h review anchor VERSION` makes another version the anchor"
    if anchor.problem:
        return Verdict(name, False, f"not comparable with {who}: {anchor.problem}", "warn", move)
    if not candidate.scored:
        return Verdict(name, True, "no task to judge")
    pairs = candidate.paired(anchor.predictions)
    if not pairs.tasks:
        return Verdict(name, False, f"no claimed task is shared with {who}", "warn", move)
    verdict, _ = held_against(name, candidate.config, pairs, who, must_be_shown=True)
    return verdict


def not_worse_than_arm(candidate: Candidate, arm: str, predictions: Predictions | None) -> Verdict:
    """Against another arm of the same night: clearly below it is what is refuted; nothing must be
    shown.

    Clustering is left out: no label says which groups are right, and a network that does nothing
    but cluster draws tighter ones than a network whose layers serve other tasks too.
    """
    name = f"not_worse_than_{arm}"
    supervised = [task for task in candidate.tasks if task.problem != "clustering"]
    compared = replace(candidate, tasks=supervised)
    pairs = compared.paired(predictions) if predictions is not None else None
    if pairs is None or not pairs.tasks:
        return Verdict(name, True, f"no claimed task is shared with {_ARM_NAMES[arm]}", ARMS[arm])
    verdict, _ = held_against(name, candidate.config, pairs, _ARM_NAMES[arm], must_be_shown=False)
    return replace(verdict, severity=ARMS[arm])


def no_subgroup_harmed(
    candidate: Candidate,
    shared: Sequence[TaskSpec],
    champion: Champion | None,
) -> Verdict:
    """Against the champion within each group of the audit columns; only what is refuted counts."""
    name = "no_subgroup_harmed"
    config = candidate.config
    cohort = candidate.cohort
    if champion is None:
        return Verdict(name, True, "there is no champion yet to lose against")
    if champion.problem:
        return Verdict(name, False, "not comparable with the champion")
    if not cohort.groups:
        return Verdict(name, True, "no column is declared for audits")
    tasks: list[tuple[str, str, float, float]] = []
    differences: list[np.ndarray] = []
    small = 0
    supervised = [task for task in shared if task.problem != "clustering"]
    for attribute, of_row in cohort.groups.items():
        for group in sorted(set(of_row)):
            inside = np.asarray(of_row) == group
            if _patients(cohort, inside) < MIN_GROUP_SIZE:
                small += 1
                continue
            labelled = {key: mask & inside for key, mask in cohort.labelled.items()}
            part = replace(cohort, labelled=labelled)
            judged = [task for task in supervised if too_few(part, task) is None]
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
        return Verdict(name, True, f"no subgroup has enough test labels to be judged{hidden}")
    found = compare(tasks, np.stack(differences, axis=1), config.subgroup_margin, config.level)
    problems: list[str] = []
    advice: list[str] = []
    if harmed := [named(one) for one in found if one.state == "refuted"]:
        problems.append(f"shown to lose more than {config.subgroup_margin}: {some(harmed)}{hidden}")
        advice.append("look at these groups in the report's audit, or raise [gate] subgroup_margin")
    if problems:
        return _verdict(name, found, problems, advice, "")
    reason = (
        f"{pluralize(len(found), 'comparison')} of a task in a subgroup, none shown to lose more than "
        f"{config.subgroup_margin}{hidden}"
    )
    return Verdict(name, True, reason, counts=_counts(found))


def held_against(
    name: str, config: GateConfig, pairs: Pairs, who: str, *, must_be_shown: bool
) -> tuple[Verdict, list[Compared]]:
    """No task may be refuted, nor their mean; with ``must_be_shown`` the mean (strict: each task)
    must be shown."""
    found = compare(pairs.tasks, pairs.replicates, config.margin, config.level)
    mean = float(pairs.differences.mean())
    low, high = mean_bounds(pairs.differences, pairs.replicates, config.level)
    problems: list[str] = []
    advice: list[str] = []
    if refuted := [named(one) for one in found if one.state == "refuted"]:
        problems.append(f"shown to lose more than {config.margin} against {who}: {some(refuted)}")
        advice.append(f"look at {_tasks(found, 'refuted')} in the report, or raise [gate] margin")
    unsure = [named(one) for one in found if one.state == "open"]
    if must_be_shown and config.strict and unsure:
        problems.append(f"not shown to keep within {config.margin} of {who}: {some(unsure)}")
        advice.append("set [gate] strict = false: the test split is too small to show each task")
    if high < 0 and mean < -config.mean_margin:
        problems.append(
            f"the mean of {pluralize(len(found), 'task')} is shown to be below that of {who}: "
            f"{format_number(mean, sign=True)} (upper bound {format_number(high, sign=True)})"
        )
        advice.append("many tasks have lost a little: see the report; or raise [gate] mean_margin")
    elif must_be_shown and not config.strict and low < -config.margin:
        problems.append(
            f"the mean of {pluralize(len(found), 'task')} is not shown to keep within {config.margin} "
            f"of {who} (lower bound {format_number(low, sign=True)})"
        )
        advice.append("a larger test split can tell; or raise [gate] margin")
    shown_to_be = f"shown to keep within {config.margin} of {who}"
    return _verdict(name, found, problems, advice, shown_to_be), found


def _verdict(
    name: str,
    found: Sequence[Compared],
    problems: Sequence[str],
    advice: Sequence[str],
    shown_to_be: str,
) -> Verdict:
    counts = _counts(found)
    if problems:
        return Verdict(name, False, "; ".join(problems), advice="; ".join(advice), counts=counts)
    rest = f"; {pluralize(counts['open'], 'task')} too uncertain to tell" if counts["open"] else ""
    reason = f"{pluralize(counts['shown'], 'task')} {shown_to_be}{rest}"
    return Verdict(name, True, reason, counts=counts)


def _counts(found: Sequence[Compared]) -> dict[str, int]:
    states = [one.state for one in found]
    by_state = {state: states.count(state) for state in ("shown", "open", "refuted")}
    return {"judged": len(found)} | by_state


def _tasks(found: Sequence[Compared], state: str) -> str:
    return some([one.task for one in found if one.state == state])


def _patients(cohort: Cohort, inside: np.ndarray) -> int:
    from m3h_core.cohort import TEST

    rows = np.flatnonzero(inside & (cohort.split == TEST))
    return len(np.unique(cohort.subjects[rows]))
