"""Calibration bins, operating points and thresholds of one task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from m3h_core.grouped import mean_interval, share_interval
from m3h_pipeline.evaluation.scores import round_value
from m3h_pipeline.wording import MIN_GROUP_SIZE

if TYPE_CHECKING:
    from m3h_core import Cohort, TaskSpec

# A bin of a calibration curve holds so many rows or more.
_MIN_BIN_SIZE = 20
_POINTS = 50
# The rows of a table of thresholds: how many are flagged, or how many of those who will have it are
# found.
_FLAGGED_SHARES = (0.05, 0.1, 0.2)
_SENSITIVITIES = (0.8, 0.9)


def has_curves(task: TaskSpec) -> bool:
    """Whether `describe_curves` can describe the task."""
    return task.problem in ("binary", "regression")


def describe_curves(cohort: Cohort, task: TaskSpec, predictions: np.ndarray) -> dict[str, Any]:
    """The calibration bins of a task; of a binary one its operating points and thresholds, too."""
    rows = np.flatnonzero(cohort.labelled[task.name])
    y_true = np.asarray(cohort.labels[task.name], dtype=np.float64)[rows]
    y_score = np.asarray(predictions)[rows]
    subjects = cohort.subjects[rows]
    bins = _split_into_bins(y_score)
    if task.problem == "regression":
        return {
            "unit": task.unit,
            "bins": [_describe_mean(y_true[at], y_score[at], subjects[at]) for at in bins],
        }
    is_positive = y_true == 1
    points = find_operating_points(is_positive, y_score)
    return {
        "prevalence": round_value(is_positive.mean()),
        "bins": [_describe_share(is_positive[at], y_score[at], subjects[at]) for at in bins],
        "points": points,
        "thresholds": _describe_thresholds(points, is_positive, y_score, subjects),
    }


def _split_into_bins(y_score: np.ndarray) -> list[np.ndarray]:
    """Rows in up to ten bins of about equal count, by what was predicted; equal predictions share
    one.
    """
    count = max(1, min(10, len(y_score) // _MIN_BIN_SIZE))
    edges = np.unique(np.quantile(y_score, np.arange(1, count) / count, method="nearest"))
    of_row = np.searchsorted(edges, y_score, side="right")
    bins = [np.flatnonzero(of_row == at) for at in range(len(edges) + 1)]
    return [rows for rows in bins if len(rows) >= MIN_GROUP_SIZE]


def _describe_share(
    is_positive: np.ndarray, y_score: np.ndarray, subjects: np.ndarray
) -> dict[str, float | None]:
    return _describe_bin(is_positive, y_score, share_interval(is_positive, subjects, "wilson"))


def _describe_mean(
    y_true: np.ndarray, y_score: np.ndarray, subjects: np.ndarray
) -> dict[str, float | None]:
    return _describe_bin(y_true, y_score, mean_interval(y_true, subjects))


def _describe_bin(
    y_true: np.ndarray, y_score: np.ndarray, ends: tuple[float, float]
) -> dict[str, float | None]:
    low, high = ends
    return {
        "predicted": round_value(y_score.mean()),
        "observed": round_value(y_true.mean()),
        "low": round_value(low),
        "high": round_value(high),
    }


def find_operating_points(is_positive: np.ndarray, y_score: np.ndarray) -> list[dict[str, Any]]:
    """What flagging all rows at or above a threshold does, for up to 50 thresholds, the highest
    first.

    ``is_positive`` bool [n], ``y_score`` [n]. Left out are thresholds that flag, or leave, fewer
    than 10 rows.

    >>> point = find_operating_points(np.arange(40) >= 20, np.arange(40) / 40)[0]
    >>> {name: point[name] for name in ("threshold", "flagged", "sensitivity", "specificity")}
    {'threshold': 0.75, 'flagged': 0.25, 'sensitivity': 0.5, 'specificity': 1.0}
    """
    shares = np.arange(_POINTS + 1) / _POINTS
    thresholds = np.unique(np.quantile(y_score, shares, method="higher"))[::-1]
    points = []
    for threshold in thresholds:
        flagged = y_score >= threshold
        if MIN_GROUP_SIZE <= flagged.sum() <= len(y_score) - MIN_GROUP_SIZE:
            point = {"threshold": float(threshold), "flagged": round_value(flagged.mean())}
            for name, (counted, among) in _list_shares(is_positive, flagged).items():
                point[name] = round_value(counted[among].mean())
            points.append(point)
    return points


def _list_shares(
    is_positive: np.ndarray, flagged: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What each share counts, and among which rows: two masks [n]."""
    return {
        "sensitivity": (flagged, is_positive),
        "specificity": (~flagged, ~is_positive),
        "ppv": (is_positive, flagged),
        "npv": (~is_positive, ~flagged),
    }


def _describe_thresholds(
    points: Sequence[Mapping[str, Any]],
    is_positive: np.ndarray,
    y_score: np.ndarray,
    subjects: np.ndarray,
) -> list[dict[str, Any]]:
    """The points nearest to a share that is flagged, and the first that find a share; with
    intervals.
    """
    chosen: dict[str, Mapping[str, Any]] = {}
    for share in _FLAGGED_SHARES:
        nearest = min(points, key=lambda point: abs(point["flagged"] - share), default=None)
        if nearest and abs(nearest["flagged"] - share) <= share / 2:
            chosen[f"flag the {share:.0%} at highest risk"] = nearest
    for share in _SENSITIVITIES:
        first = next((point for point in points if point["sensitivity"] >= share), None)
        if first:
            chosen[f"find {share:.0%} of them"] = first
    rows = []
    for rule, point in chosen.items():
        row: dict[str, Any] = {"rule": rule, **point}
        flagged = y_score >= point["threshold"]
        for name, (counted, among) in _list_shares(is_positive, flagged).items():
            low, high = share_interval(counted[among], subjects[among], "wilson")
            row[f"{name}_low"] = round_value(low)
            row[f"{name}_high"] = round_value(high)
        rows.append(row)
    return rows
