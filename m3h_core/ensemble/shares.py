"""How much the network counts in an ensemble with boosted trees, task by task.

Each task's prediction is the mean of both members' weighted by the network's share and the trees'
rest. Half each is hard to beat while labels are few, and what few labels prefer is noise. So a
share is a maximum a posteriori estimate: the log likelihood of labels that no member has seen,
under the mixture, and a normal prior around what the other tasks together say, which in turn has a
prior around one half. A likelihood grows with what labels tell, a rare diagnosis by its positives:
no count of rows has to be chosen by which to believe them.

Shapes: N samples, n labelled rows that are read, C classes, S shares that are tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from m3h_core.data.cohort import Cohort
from m3h_core.data.tasks import TaskSpec

EQUAL = 0.5
# The priors' standard deviation: shares from .3 to .7 are unremarkable before any label is seen.
PRIOR_SCALE = 0.1
_SHARES_S = np.linspace(0, 1, 101)
# A probability below this counts as this much: one row that is sure and wrong must not decide.
_LEAST = 1e-6


def fit_network_shares(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    network: Mapping[str, np.ndarray],
    trees: Mapping[str, np.ndarray],
    rows: np.ndarray,
) -> dict[str, float]:
    """The network's share, from 0 to 1, of each task: 1 where the trees have no prediction.

    ``network`` and ``trees`` hold predictions {task: [N], or [N, C]} of every row of the cohort, as
    ``predict`` returns them; read are the labelled ones of ``rows`` [n], which neither member may
    have been fitted on.

    >>> y_true = np.random.default_rng(0).normal(size=2000)
    >>> labels = {"stay": y_true}
    >>> labelled = {"stay": np.arange(2000) < 20}
    >>> ids = [str(row) for row in range(2000)]
    >>> everyone = np.arange(2000)
    >>> few = Cohort(ids, np.zeros(2000, int), {}, {}, labels, labelled)
    >>> stay = TaskSpec("stay", "regression", unit="days")
    >>> members = {"stay": np.zeros(2000)}, {"stay": y_true / 2}
    >>> fit_network_shares(few, [stay], *members, everyone)
    {'stay': 0.38}
    >>> many = Cohort(ids, np.zeros(2000, int), {}, {}, labels, {"stay": np.ones(2000, bool)})
    >>> fit_network_shares(many, [stay], *members, everyone)
    {'stay': 0.0}
    """
    losses = {}
    for task in tasks:
        if task.name not in trees:
            continue
        labelled = rows[np.asarray(cohort.labelled[task.name])[rows]]
        y_true = np.asarray(cohort.labels[task.name], dtype=np.float64)[labelled]
        of_network = np.asarray(network[task.name])[labelled]
        of_trees = np.asarray(trees[task.name])[labelled]
        losses[task.name] = _compute_losses(task, y_true, of_network, of_trees)
    total_S = sum(losses.values(), np.zeros(len(_SHARES_S)))
    shares = {task.name: 1.0 for task in tasks}
    for name, loss_S in losses.items():
        # Not of the task itself: its labels would count twice.
        centre = _find_best(total_S - loss_S, EQUAL)
        shares[name] = _find_best(loss_S, centre)
    return shares


def _find_best(loss_S: np.ndarray, centre: float) -> float:
    distance_S = (_SHARES_S - centre) / PRIOR_SCALE
    return round(float(_SHARES_S[np.argmin(loss_S + distance_S**2 / 2)]), 2)


def mix_predictions(
    network: Mapping[str, np.ndarray],
    trees: Mapping[str, np.ndarray],
    shares: Mapping[str, float],
) -> dict[str, np.ndarray]:
    """The weighted mean of both members' predictions {task: [N] or [N, C]}, of the network's tasks.

    >>> mix_predictions({"death": np.array([0.2])}, {"death": np.array([0.6])}, {"death": 0.75})
    {'death': array([0.3])}
    """
    return {
        name: _mix(values, np.asarray(trees[name]), shares[name]) if name in trees else values
        for name, values in network.items()
    }


def _mix(network: np.ndarray, trees: np.ndarray, share: float) -> np.ndarray:
    return share * network + (1 - share) * trees


def _compute_losses(
    task: TaskSpec, y_true: np.ndarray, network: np.ndarray, trees: np.ndarray
) -> np.ndarray:
    """The negative log likelihood [S] of n labels under the mixture of each share, in nats; of a
    regression under normal errors of the equal mixture's variance.
    """
    if not len(y_true):
        return np.zeros(len(_SHARES_S))
    mixtures = [_mix(network, trees, share) for share in _SHARES_S]
    if task.problem == "regression":
        variance = np.square(y_true - _mix(network, trees, EQUAL)).mean() or 1.0
        return np.array([np.square(y_true - mixed).sum() / (2 * variance) for mixed in mixtures])
    rows = np.arange(len(y_true))
    classes = y_true.astype(int)
    losses = []
    for mixed in mixtures:
        by_class = np.column_stack([1 - mixed, mixed]) if mixed.ndim == 1 else mixed
        losses.append(-np.log(np.maximum(by_class[rows, classes], _LEAST)).sum())
    return np.array(losses)
