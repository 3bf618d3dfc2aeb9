"""An order of the tasks in which likes are neighbours, for pictures of task interaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from m3h_pipeline.wording import is_number

_BY_PAIR = ("matrix", "low", "high", "gain", "q", "evidence", "stopped")
_BY_TASK = ("single", "n")
_OF_JOINT = ("single", "joint", "change", "low", "high", "gain", "q", "evidence")
_OF_LEFT_OUT = ("matrix", "low", "high", "gain", "evidence")


def arrange_tasks(tim: Mapping[str, Any], departments: Mapping[str, str]) -> dict[str, Any]:
    """The same with the tasks in an order in which likes are neighbours: departments, and tasks
    within each.

    ``departments`` is that of each task. Likeness is that of the tasks' rows and columns (average
    linkage, optimal leaf order). The result says its ``departments`` in the new order.
    """
    names = tim["tasks"]
    of_task = [departments.get(task, "other") for task in names]
    order = _find_order(tim["matrix"], of_task)
    arranged = dict(tim)
    arranged["tasks"] = _take(names, order)
    arranged["departments"] = _take(of_task, order)
    for name in _BY_PAIR:
        arranged[name] = [_take(row, order) for row in _take(tim[name], order)]
    for name in _BY_TASK:
        arranged[name] = _take(tim[name], order)
    for part, of_part in (("joint_learning", _OF_JOINT), ("leave_one_out", _OF_LEFT_OUT)):
        if tim[part]:
            in_order = {name: _take(tim[part][name], order) for name in of_part}
            arranged[part] = tim[part] | in_order
    return arranged


def _take(values: Sequence[Any], order: Sequence[int]) -> list[Any]:
    return [values[i] for i in order]


def _find_order(matrix: Sequence[Sequence[float | None]], departments: Sequence[str]) -> list[int]:
    """The tasks' places: departments by the mean of their tasks, tasks within each."""
    filled = np.array([_fill_missing(row) for row in matrix])
    profile = np.hstack([filled, filled.T])
    members: dict[str, list[int]] = {}
    for i, department in enumerate(departments):
        members.setdefault(department, []).append(i)
    groups = list(members.values())
    means = np.array([profile[group].mean(0) for group in groups])
    order = []
    for place in _sort_leaves(means):
        group = groups[place]
        order += [group[i] for i in _sort_leaves(profile[group])]
    return order


def _fill_missing(row: Sequence[float | None]) -> list[float | None]:
    return [value if is_number(value) else 0.0 for value in row]


def _sort_leaves(profile: np.ndarray) -> list[int]:
    from scipy.cluster.hierarchy import leaves_list, linkage

    if len(profile) < 3:
        return list(range(len(profile)))
    return leaves_list(linkage(profile, "average", optimal_ordering=True)).tolist()
