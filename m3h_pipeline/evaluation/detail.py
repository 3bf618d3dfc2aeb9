"""detail.json: what stands behind the one number of a task, and behind the model's, on the test
split.

Curves and thresholds of each task, subgroups, what each modality adds, and what sets phenotypes
apart. Groups of fewer than 10 patients are nowhere described. Intervals are 95%: of scores from
resampling subjects, of shares by Wilson, with the rows of a patient grouped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from m3h_core.cohort import TEST, proper_subsets
from m3h_core.grouped import mean_interval, share_interval
from m3h_pipeline.evaluation.quality import rounded, too_few
from m3h_pipeline.wording import MIN_GROUP_SIZE

if TYPE_CHECKING:
    from m3h_core import Cohort, FittedModel, TaskSpec
    from m3h_core.metrics import Resamples

Predictions = Mapping[str, np.ndarray]

# A bin of a calibration curve holds so many rows or more.
_FEWEST_IN_BIN = 20
_POINTS = 50
# The rows of a table of thresholds: how many are flagged, or how many of those who will have it are
# found.
_FLAGGED = (0.05, 0.1, 0.2)
_FOUND = (0.8, 0.9)
# Resamples for the many scores of subgroups and modalities.
_RESAMPLES = 200
_MOST_ENRICHED = 5


def detail(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    predictions: Predictions,
    calibrated: Predictions,
    model: FittedModel,
    retrained: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """The content of detail.json.

    ``predictions`` are the model's for every row of the cohort, ``calibrated`` the same after
    calibration; ``retrained``: those of models trained on subsets of the modalities, named as the
    job "train" does. Curves, subgroups and modalities hold the tasks that have enough test labels
    to be claimed.
    """
    from m3h_core.metrics import Resamples

    # Only the test split is looked at.
    rows = cohort.rows(TEST)
    cohort = cohort.take(rows)
    predictions, calibrated = (
        {name: said[rows] for name, said in p.items()} for p in (predictions, calibrated)
    )
    anew = {name: said[rows] for name, said in (retrained or {}).items()}
    claimed = [task for task in tasks if too_few(cohort, task) is None]
    supervised = [task for task in claimed if task.problem != "clustering"]
    draws = Resamples(cohort, TEST, _RESAMPLES, seed=0)
    return {
        "curves": {
            task.name: _curves(cohort, task, calibrated[task.name])
            for task in claimed
            if _has_curves(task)
        },
        "subgroups": _subgroups(cohort, claimed, predictions, draws),
        "modalities": _modalities(cohort, supervised, model, anew, draws),
        "phenotypes": [
            _phenotypes(cohort, task, predictions[task.name], tasks)
            for task in claimed
            if task.problem == "clustering"
        ],
    }


def _has_curves(task: TaskSpec) -> bool:
    return task.problem in ("binary", "regression")


# Curves and thresholds ----------------------------------------------------------------------------


def _curves(cohort: Cohort, task: TaskSpec, prediction: np.ndarray) -> dict[str, Any]:
    rows = np.flatnonzero(cohort.labelled[task.name])
    target = np.asarray(cohort.labels[task.name], dtype=np.float64)[rows]
    said = np.asarray(prediction)[rows]
    subjects = cohort.subjects[rows]
    if task.problem == "regression":
        bins = [_mean_bin(target[at], said[at], subjects[at]) for at in _bins(said)]
        return {"unit": task.unit, "bins": bins}
    happened = target == 1
    points = operating_points(happened, said)
    return {
        "prevalence": rounded(happened.mean()),
        "bins": [_share_bin(happened[at], said[at], subjects[at]) for at in _bins(said)],
        "points": points,
        "thresholds": _thresholds(points, happened, said, subjects),
    }


def _bins(said: np.ndarray) -> list[np.ndarray]:
    """Rows in up to ten bins of about equal count, by what was predicted; equal predictions share
    one.
    """
    count = max(1, min(10, len(said) // _FEWEST_IN_BIN))
    edges = np.unique(np.quantile(said, np.arange(1, count) / count, method="nearest"))
    of_row = np.searchsorted(edges, said, side="right")
    bins = [np.flatnonzero(of_row == at) for at in range(len(edges) + 1)]
    return [rows for rows in bins if len(rows) >= MIN_GROUP_SIZE]


def _share_bin(
    target: np.ndarray, said: np.ndarray, subjects: np.ndarray
) -> dict[str, float | None]:
    low, high = share_interval(target, subjects, "wilson")
    return {
        "predicted": rounded(said.mean()),
        "observed": rounded(target.mean()),
        "low": rounded(low),
        "high": rounded(high),
    }


def _mean_bin(
    target: np.ndarray, said: np.ndarray, subjects: np.ndarray
) -> dict[str, float | None]:
    low, high = mean_interval(target, subjects)
    return {
        "predicted": rounded(said.mean()),
        "observed": rounded(target.mean()),
        "low": rounded(low),
        "high": rounded(high),
    }


def operating_points(happened: np.ndarray, said: np.ndarray) -> list[dict[str, Any]]:
    """What flagging all rows at or above a threshold does, for up to 50 thresholds, the highest
    first.

    ``happened`` bool [n], ``said`` [n]. Left out are thresholds that flag, or leave, fewer than 10
    rows.

    >>> operating_points(np.arange(40) >= 20, np.arange(40) / 40)[0]
    {'threshold': 0.75, 'flagged': 0.25, 'sensitivity': 0.5, 'specificity': 1.0, 'ppv': 1.0, 'npv': 0.666667}
    """
    thresholds = np.unique(np.quantile(said, np.arange(_POINTS + 1) / _POINTS, method="higher"))[
        ::-1
    ]
    points = []
    for threshold in thresholds:
        flagged = said >= threshold
        if MIN_GROUP_SIZE <= flagged.sum() <= len(said) - MIN_GROUP_SIZE:
            shares = {
                name: rounded(counted[among].mean())
                for name, (counted, among) in _shares(happened, flagged).items()
            }
            points.append(
                {"threshold": float(threshold), "flagged": rounded(flagged.mean())} | shares
            )
    return points


def _shares(happened: np.ndarray, flagged: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What each share counts, and among which rows: two masks [n]."""
    return {
        "sensitivity": (flagged, happened),
        "specificity": (~flagged, ~happened),
        "ppv": (happened, flagged),
        "npv": (~happened, ~flagged),
    }


def _thresholds(
    points: Sequence[Mapping[str, Any]],
    happened: np.ndarray,
    said: np.ndarray,
    subjects: np.ndarray,
) -> list[dict[str, Any]]:
    """The points nearest to a share that is flagged, and the first that find a share; with
    intervals.
    """
    chosen: dict[str, Mapping[str, Any]] = {}
    for share in _FLAGGED:
        near = min(points, key=lambda point: abs(point["flagged"] - share), default=None)
        if near and abs(near["flagged"] - share) <= share / 2:
            chosen[f"flag the {share:.0%} at highest risk"] = near
    for share in _FOUND:
        if enough := next((point for point in points if point["sensitivity"] >= share), None):
            chosen[f"find {share:.0%} of them"] = enough
    rows = []
    for rule, point in chosen.items():
        row: dict[str, Any] = {"rule": rule, **point}
        flagged = said >= point["threshold"]
        for name, (counted, among) in _shares(happened, flagged).items():
            low, high = share_interval(counted[among], subjects[among], "wilson")
            row[f"{name}_low"] = rounded(low)
            row[f"{name}_high"] = rounded(high)
        rows.append(row)
    return rows


# Subgroups ----------------------------------------------------------------------------------------


def _subgroups(
    cohort: Cohort, tasks: Sequence[TaskSpec], predictions: Predictions, draws: Resamples
) -> list[dict[str, Any]]:
    """Each group of the audit columns against everybody else, over the tasks that both have labels
    enough for.
    """
    from m3h_core.metrics import interval

    supervised = [task for task in tasks if task.problem in ("binary", "multiclass")]
    records = []
    for attribute, of_row in (cohort.groups or {}).items():
        for group in sorted(set(of_row)):
            inside = np.asarray(of_row) == group
            sides = [_only(cohort, inside), _only(cohort, ~inside)]
            judged = [task for task in supervised if not any(too_few(side, task) for side in sides)]
            patients = _patients(cohort, inside)
            record: dict[str, Any] = {
                "attribute": attribute,
                "group": group,
                "n": patients,
                "tasks": [],
            }
            records.append(record)
            if not judged or patients is None:
                continue
            values, replicates = _scores(sides, judged, [predictions] * 2, draws)
            record |= _contrast(values.mean(1), replicates.mean(1))
            for at, task in enumerate(judged):
                low, high = interval(replicates[0, at])
                one = {
                    "task": task.name,
                    "value": rounded(values[0, at]),
                    "low": rounded(low),
                    "high": rounded(high),
                }
                other = _contrast(values[:, at], replicates[:, at])
                record["tasks"].append(
                    one | {k: v for k, v in other.items() if k.startswith("difference")}
                )
    return records


def _only(cohort: Cohort, inside: np.ndarray) -> Cohort:
    """The cohort with the labels of some rows alone."""
    return replace(
        cohort, labelled={name: np.asarray(mask) & inside for name, mask in cohort.labelled.items()}
    )


def _patients(cohort: Cohort, inside: np.ndarray) -> int | None:
    """Patients of a group, None for fewer than 10."""
    rows = np.flatnonzero(inside)
    subjects = cohort.subject_ids if cohort.subject_ids is not None else cohort.sample_ids
    count = len({subjects[row] for row in rows})
    return count if count >= MIN_GROUP_SIZE else None


def _scores(
    cohorts: Sequence[Cohort],
    tasks: Sequence[TaskSpec],
    predictions: Sequence[Predictions],
    draws: Resamples,
) -> tuple[np.ndarray, np.ndarray]:
    """Primary metrics [variants, T], and on each resample [variants, T, R]."""
    from m3h_core.metrics import primary_metric, primary_replicates

    pairs = list(zip(cohorts, predictions, strict=True))
    values = [
        [primary_metric(cohort, task, said[task.name]) for task in tasks] for cohort, said in pairs
    ]
    replicates = [
        [primary_replicates(cohort, task, said[task.name], draws) for task in tasks]
        for cohort, said in pairs
    ]
    return np.array(values), np.array(replicates)


def _contrast(values: np.ndarray, replicates: np.ndarray) -> dict[str, float | None]:
    """The first of two variants, the second (``others``), and first minus second; from [2] and [2,
    R].
    """
    from m3h_core.metrics import interval

    low, high = interval(replicates[0])
    difference_low, difference_high = interval(replicates[0] - replicates[1])
    return {
        "value": rounded(values[0]),
        "low": rounded(low),
        "high": rounded(high),
        "others": rounded(values[1]),
        "difference": rounded(values[0] - values[1]),
        "difference_low": rounded(difference_low),
        "difference_high": rounded(difference_high),
    }


# Modalities ---------------------------------------------------------------------------------------


def _modalities(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    model: FittedModel,
    retrained: Mapping[str, np.ndarray],
    draws: Resamples,
) -> dict[str, Any] | None:
    """What the one model makes of each subset of the modalities, the others taken away; None for a
    single modality.

    Beside it, where there are any, what models made of it that had learned from these modalities
    alone.
    """
    from m3h_core.metrics import interval

    there = [name for name, present in cohort.present.items() if np.asarray(present).any()]
    subsets = [tuple(there), *proper_subsets(cohort)]
    alike = [at for at, task in enumerate(tasks) if task.problem in ("binary", "multiclass")]
    if len(there) < 2 or not alike:
        return None
    masked = [_masked(cohort, subset) for subset in subsets]
    values, replicates = _scores(masked, tasks, [model.predict(part) for part in masked], draws)
    rows = []
    for at, subset in enumerate(subsets):
        low, high = interval(replicates[at, alike].mean(0))
        known = np.any([cohort.present[name] for name in subset], axis=0)
        rows.append(
            {
                "modalities": list(subset),
                "n": int(known.sum()) if known.sum() >= MIN_GROUP_SIZE else None,
                "value": rounded(values[at, alike].mean()),
                "low": rounded(low),
                "high": rounded(high),
                "retrained": _anew(
                    cohort, [tasks[i] for i in alike], "+".join(subset), retrained, draws
                ),
            }
        )
    without = {
        name: subsets.index(tuple(other for other in there if other != name)) for name in there
    }
    return {
        "tasks": len(alike),
        "subsets": rows,
        "adds": {
            name: _contrast(
                values[[0, at]][:, alike].mean(1), replicates[[0, at]][:, alike].mean(1)
            )
            for name, at in without.items()
        },
        "by_task": [
            {
                "task": task.name,
                "adds": {
                    name: _contrast(values[[0, at], i], replicates[[0, at], i])
                    for name, at in without.items()
                },
            }
            for i, task in enumerate(tasks)
        ],
    }


def _anew(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    subset: str,
    retrained: Mapping[str, np.ndarray],
    draws: Resamples,
) -> dict[str, float | None] | None:
    """The mean score of the model that was trained on a subset alone, None where there is none."""
    from m3h_core.metrics import interval

    said = {
        task.name: retrained[f"{subset}/{task.name}"]
        for task in tasks
        if f"{subset}/{task.name}" in retrained
    }
    if len(said) < len(tasks):
        return None
    values, replicates = _scores([cohort], tasks, [said], draws)
    low, high = interval(replicates[0].mean(0))
    return {"value": rounded(values.mean()), "low": rounded(low), "high": rounded(high)}


def _masked(cohort: Cohort, subset: Sequence[str]) -> Cohort:
    """The cohort as if its patients had only some of the modalities."""
    nothing = np.zeros(len(cohort), dtype=bool)
    return replace(
        cohort,
        present={
            name: mask if name in subset else nothing for name, mask in cohort.present.items()
        },
    )


# Phenotypes ---------------------------------------------------------------------------------------


def _phenotypes(
    cohort: Cohort, task: TaskSpec, prediction: np.ndarray, outcomes: Sequence[TaskSpec]
) -> dict[str, Any]:
    """The clusters, each with what is more or less frequent in it than outside."""
    from m3h_core.clusters import cluster_enrichment
    from m3h_core.silhouette import hard_clusters

    clusters = hard_clusters(prediction)
    found = [
        one for one in cluster_enrichment(cohort, task, prediction, outcomes) if not one.suppressed
    ]
    records = []
    for cluster in np.unique(clusters):
        mine = [one for one in found if one.cluster == cluster and one.q_value < 0.05]
        strongest = sorted(mine, key=lambda one: one.p_value)[:_MOST_ENRICHED]
        records.append(
            {
                "cluster": int(cluster),
                "n": _patients(cohort, clusters == cluster),
                "compared": len([one for one in found if one.cluster == cluster]),
                "differs": len(mine),
                "enriched": [
                    {"task": one.outcome, "q": rounded(one.q_value)}
                    | {
                        name: rounded(getattr(one, name))
                        for name in ("inside", "outside", "difference", "low", "high")
                    }
                    for one in strongest
                ],
            }
        )
    return {"task": task.name, "clusters": records}
