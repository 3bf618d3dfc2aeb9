"""How much the network counts in an ensemble with boosted trees, task by task.

Each task's prediction is the mean of both members' weighted by the network's share and the trees'
rest. Half each is hard to beat while labels are few, and what few validation labels prefer is
noise. So the share is a maximum a posteriori estimate: the validation labels' log likelihood under
the mixture, and a normal prior around one half. A likelihood grows with what labels tell, a rare
diagnosis by its positives: no count of rows has to be chosen by which to believe them.

Shapes: N samples, n labelled validation rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from m3h_core.data.cohort import VALID, Cohort
from m3h_core.data.tasks import TaskSpec

EQUAL = 0.5
# The prior's standard deviation: shares from .3 to .7 are unremarkable before any label is seen.
PRIOR_SCALE = 0.1
# A probability below this counts as this much: one row that is sure and wrong must not decide.
_LEAST = 1e-6


def fit_network_shares(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    network: Mapping[str, np.ndarray],
    trees: Mapping[str, np.ndarray],
) -> dict[str, float]:
    """The network's share, from 0 to 1, of each task: 1 where the trees have no prediction.

    ``network`` and ``trees`` hold predictions {task: [N], or [N, C]} of every row of the cohort, as
    ``predict`` returns them; read are the labelled rows of the validation split, which neither
    member was fitted on.
    """
    shares = {}
    for task in tasks:
        if task.name not in trees:
            shares[task.name] = 1.0
            continue
        rows = np.flatnonzero(cohort.labelled[task.name] & (cohort.split == VALID))
        y_true = np.asarray(cohort.labels[task.name], dtype=np.float64)[rows]
        shares[task.name] = fit_share(
            task, y_true, np.asarray(network[task.name])[rows], np.asarray(trees[task.name])[rows]
        )
    return shares


def fit_share(task: TaskSpec, y_true: np.ndarray, network: np.ndarray, trees: np.ndarray) -> float:
    """The network's share of one task, from labels [n] and both members' predictions [n] or [n, C].

    >>> task = TaskSpec("stay", "regression", unit="days")
    >>> y_true = np.random.default_rng(0).normal(size=2000)
    >>> few, many = (fit_share(task, y_true[:n], np.zeros(n), y_true[:n] / 2) for n in (20, 2000))
    >>> round(few, 2), round(many, 2)
    (0.38, 0.0)
    >>> fit_share(task, y_true[:0], np.zeros(0), np.zeros(0))
    0.5
    """
    from scipy.optimize import minimize_scalar

    if not len(y_true):
        return EQUAL

    def loss(share: float) -> float:
        distance = (share - EQUAL) / PRIOR_SCALE
        return _negative_log_likelihood(task, y_true, network, trees, share) + distance**2 / 2

    return float(minimize_scalar(loss, bounds=(0.0, 1.0), method="bounded").x)


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


def _negative_log_likelihood(
    task: TaskSpec, y_true: np.ndarray, network: np.ndarray, trees: np.ndarray, share: float
) -> float:
    """Of n labels under the mixture, in nats; of a regression under normal errors of the equal
    mixture's variance.
    """
    mixed = _mix(network, trees, share)
    if task.problem == "regression":
        variance = np.square(y_true - _mix(network, trees, EQUAL)).mean()
        return float(np.square(y_true - mixed).sum() / (2 * variance)) if variance else 0.0
    if task.problem == "binary":
        probability = np.where(y_true == 1, mixed, 1 - mixed)
    else:
        probability = mixed[np.arange(len(y_true)), y_true.astype(int)]
    return float(-np.log(np.maximum(probability, _LEAST)).sum())
