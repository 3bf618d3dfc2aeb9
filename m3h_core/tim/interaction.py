"""The matrix: how the metric of one task changes when another is learned with it.

P_i(S) is the test metric of task i (higher is better) of a model trained jointly on the task set S.
The definitions are ours, in the sense of the paper's abstract:

- pairwise: TIM(j -> i) = P_i({i, j}) - P_i({i}); one model a pair.
- shapley: the mean of P_i(S + {i, j}) - P_i(S + {i}) over all orders in which the other tasks can join i. Its rows sum
  to P_i(all) - P_i({i}). Exact up to 6 tasks, over sampled orders beyond.
- affinity, projection, attention: hints from the joint model alone (see hints.py), in their own units.

Shapes: T tasks; rows are the tasks that are helped or harmed, columns those that are learned too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from m3h_core.bank import OnProgress
from m3h_core.cohort import VALID, Cohort
from m3h_core.linear import fit_ridge
from m3h_core.model import FitConfig
from m3h_core.tasks import TaskSpec
from m3h_core.tim import hints
from m3h_core.tim.bench import Bench, Contrast, Measured, TaskSet
from m3h_core.training import FittedModel

UNITS = {
    "pairwise": "metric",
    "shapley": "metric",
    "affinity": "share of loss",
    "projection": "share of loss",
    "attention": "attention weight",
}
METHODS = tuple(UNITS)
# Up to so many tasks every subset is trained: 63 models a seed.
_EXACT_SHAPLEY = 6
_ORDERS = 10
_MOST_ORDERS = 1000
_FOLDS = 5


@dataclass(frozen=True)
class TaskInteraction:
    """The interaction of T tasks; ``matrix_TT[i, j]`` is the change of task i's metric when j is
    learned too.

    Absolute changes with 95% intervals (seeds and subjects); the diagonal is 0. ``single_T`` and
    ``joint_T`` are the metrics of each task learned alone and with all others. ``source_TT`` says
    "retrained" or "estimated".

    ``q_TT`` are p values adjusted for the false discovery rate over all retrained cells (Benjamini
    and Hochberg): NaN where estimated, or where a single seed tells nothing of training's own
    doubt. ``evidence_TT`` is where these lie within ``fdr``; no other cell should be read as an
    effect. ``valid_TT`` is the matrix on the validation split: what choices are made by.
    ``agreement`` is the rank correlation of the estimates with retrained cells that they were not
    fitted on, where there are both. ``unit`` is "metric" unless the method has a unit of its own.
    """

    tasks: tuple[str, ...]
    method: str
    matrix_TT: np.ndarray
    low_TT: np.ndarray
    high_TT: np.ndarray
    single_T: np.ndarray
    joint_T: np.ndarray
    source_TT: np.ndarray
    q_TT: np.ndarray
    valid_TT: np.ndarray
    fdr: float = 0.05
    seeds: int = 1
    models: int = 0
    agreement: float = math.nan
    unit: str = field(default="metric")

    @property
    def evidence_TT(self) -> np.ndarray:
        """Whether each cell survives the control of the false discovery rate."""
        return np.nan_to_num(self.q_TT, nan=1.0) <= self.fdr

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form: lists, null where a number is not defined."""
        return {
            "tasks": list(self.tasks),
            "method": self.method,
            "unit": self.unit,
            "matrix": listed(self.matrix_TT),
            "low": listed(self.low_TT),
            "high": listed(self.high_TT),
            "single": listed(self.single_T),
            "joint": listed(self.joint_T),
            "source": self.source_TT.tolist(),
            "q": listed(self.q_TT),
            "evidence": self.evidence_TT.tolist(),
            "fdr": self.fdr,
            "seeds": self.seeds,
            "models": self.models,
            "estimator": {"agreement": self.agreement if math.isfinite(self.agreement) else None}
            if (self.source_TT == "estimated").any()
            else None,
        }


def task_interaction(
    cohort: Cohort,
    tasks: Sequence[TaskSpec],
    method: str = "pairwise",
    config: FitConfig | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    max_models: int | None = None,
    resume: str | Path | None = None,
    on_progress: OnProgress | None = None,
    single_models: Sequence[FittedModel] = (),
    n_bootstrap: int = 200,
    fdr: float = 0.05,
    workers: int = 1,
) -> TaskInteraction:
    """Measure how the tasks act on each other.

    For each seed T single-task models, the joint model, and the task sets of the method, all
    through :func:`m3h_core.fit_many`, whose ``resume``, ``on_progress`` and ``workers`` these are:
    a kill loses at most the chunks that were being trained. Models among ``single_models``
    (single-task or joint) of the same tasks, seed and configuration are not trained again; the
    methods that read the joint model alone take only these for ``single_T``.

    ``max_models`` bounds the models that are trained. Pairwise then retrains the pairs that count
    most by a cheap estimate, some for every task, and estimates the other cells from it and from
    the retrained cells of the same row and column, with an interval as wide as left-out cells
    stray. Shapley samples as many orders of the tasks as fit. Raises ValueError for an unknown
    method, fewer than two tasks, or a bound that the single-task and joint models exceed already.
    """
    bench = Bench(
        cohort, tasks, config or FitConfig(), seeds, n_bootstrap, resume, on_progress, workers
    )
    bench.reuse(single_models)
    return measured_interaction(bench, method, max_models, fdr)


def measured_interaction(
    bench: Bench, method: str = "pairwise", max_models: int | None = None, fdr: float = 0.05
) -> TaskInteraction:
    """:func:`task_interaction` on a bench, whose models then serve :func:`task_groups` and the like
    too.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is not one of {', '.join(METHODS)}")
    if len(bench.tasks) < 2:
        raise ValueError(f"task interaction needs at least two tasks, got {len(bench.tasks)}")
    if method == "pairwise":
        return _pairwise(bench, max_models, fdr)
    if method == "shapley":
        return _shapley(bench, max_models, fdr)
    return _hinted(bench, method, fdr)


def light(config: FitConfig) -> FitConfig:
    """The same training of a small network: where the network itself is too dear for every pair.

    >>> light(FitConfig(seed=3)).hidden
    (32,)
    """
    return replace(config, hidden=(32,), members=1)


def pair_contrast(i: int, j: int) -> Contrast:
    """TIM(j -> i) = P_i({i, j}) - P_i({i})."""
    return {((min(i, j), max(i, j)), i): 1.0, ((i,), i): -1.0}


def listed(values: np.ndarray) -> Any:
    """Nested lists with None where a number is not finite."""
    if values.ndim > 1:
        return [listed(row) for row in values]
    return [value if math.isfinite(value) else None for value in values.tolist()]


def cells_of(n_tasks: int) -> list[tuple[int, int]]:
    """All T (T - 1) cells off the diagonal."""
    return [(i, j) for i in range(n_tasks) for j in range(n_tasks) if i != j]


def _ground(n_tasks: int) -> list[TaskSet]:
    """What every matrix stands on: each task alone, and all together."""
    return [*((i,) for i in range(n_tasks)), tuple(range(n_tasks))]


def _affordable(bench: Bench, max_models: int | None) -> int | None:
    """Models that may be trained beyond the ground; None: as many as it takes."""
    if max_models is None:
        return None
    first = len(bench.lacking(_ground(len(bench.tasks))))
    if max_models < first:
        raise ValueError(
            f"max_models is {max_models}, but {first} single-task and joint models come first"
        )
    return max_models - first


# Pairs --------------------------------------------------------------------------------------------


def _pairwise(bench: Bench, max_models: int | None, fdr: float) -> TaskInteraction:
    n = len(bench.tasks)
    seeds = len(bench.seeds)
    pairs: list[tuple[int, int]] = list(itertools.combinations(range(n), 2))
    left = _affordable(bench, max_models)
    if left is None or left >= len(pairs) * seeds:
        bench.plan(len(bench.lacking([*_ground(n), *pairs])))
        bench.train(_ground(n), keep=True)
        bench.train(pairs)
        return _result(bench, "pairwise", fdr, pairs, None)
    budget = left // seeds
    bench.plan(len(bench.lacking(_ground(n))) + budget * seeds)
    bench.train(_ground(n), keep=True)
    clues = _clues(bench, budget * seeds)
    chosen = _most_telling(clues[0], budget)
    bench.train(chosen)
    return _result(bench, "pairwise", fdr, chosen, clues)


def _clues(bench: Bench, models: int) -> np.ndarray:
    """Cheap estimates [k, T, T] of all cells, the best one first, beside a budget of so many
    models.
    """
    n = len(bench.tasks)
    joint = [bench.kept[tuple(range(n)), s] for s in range(len(bench.seeds))]
    attention = _attention(bench, joint).mean(0)
    projection = _projection(bench, joint).mean(0)
    by_light = _light(bench, models)
    return np.stack(
        [projection, attention] if by_light is None else [by_light, projection, attention]
    )


def _light(bench: Bench, models: int) -> np.ndarray | None:
    """The matrix by pair models of a small network, where that costs less than half of what so many
    models do.
    """
    config = light(bench.configs[0])
    n = len(bench.tasks)
    sets: list[TaskSet] = [*((i,) for i in range(n)), *itertools.combinations(range(n), 2)]
    # Nearly all weights lie in the first layer, which members share.
    if len(sets) * sum(config.hidden) / sum(bench.configs[0].hidden or (1,)) > models / 2:
        return None
    small = bench.for_network(config, bench.seeds[:1])
    small.plan(len(sets))
    small.train(sets)
    matrix = np.zeros((n, n))
    matrix[tuple(np.transpose(cells_of(n)))] = np.nan_to_num(
        small.values([pair_contrast(*c) for c in cells_of(n)])
    )
    return matrix


def _most_telling(clue_TT: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Pairs in rounds: in each, every task that has none yet has the one left that stands out most
    from its row.
    """
    others = np.where(np.eye(len(clue_TT), dtype=bool), np.nan, np.nan_to_num(clue_TT))
    apart = np.abs(others - np.nanmean(others, axis=1, keepdims=True))
    size = np.where(np.eye(len(clue_TT), dtype=bool), -1, np.maximum(apart, apart.T))
    chosen: dict[tuple[int, int], None] = {}
    while len(chosen) < count:
        reached: set[int] = set()
        for i in np.argsort(-size.max(1), kind="stable").tolist():
            j = int(size[i].argmax())
            if size[i, j] >= 0 and i not in reached and len(chosen) < count:
                chosen[min(i, j), max(i, j)] = None
                size[i, j] = size[j, i] = -1
                reached |= {i, j}
    return list(chosen)


def _result(
    bench: Bench,
    method: str,
    fdr: float,
    pairs: Sequence[tuple[int, int]],
    clues: np.ndarray | None,
) -> TaskInteraction:
    cells = [cell for i, j in pairs for cell in ((i, j), (j, i))]
    contrasts = [pair_contrast(i, j) for i, j in cells]
    measured = bench.measure(contrasts, [i for i, _ in cells])
    found = _assembled(bench, method, fdr, cells, measured, bench.values(contrasts, VALID))
    return found if clues is None else _completed(found, cells, clues)


def _assembled(
    bench: Bench,
    method: str,
    fdr: float,
    cells: Sequence[tuple[int, int]],
    measured: Measured,
    valid: np.ndarray,
) -> TaskInteraction:
    """The matrix of these cells; the others stay 0 and "estimated" until they are completed."""
    n = len(bench.tasks)
    at = tuple(np.transpose(cells).reshape(2, -1).astype(int))
    matrix = np.zeros((n, n))
    low = np.zeros((n, n))
    high = np.zeros((n, n))
    on_valid = np.zeros((n, n))
    matrix[at] = measured.value
    low[at] = measured.low
    high[at] = measured.high
    on_valid[at] = valid
    source = np.full((n, n), "estimated")
    source[at] = "retrained"
    np.fill_diagonal(source, "retrained")
    q = np.full((n, n), np.nan)
    q[at] = _adjusted(measured.p)
    every = tuple(range(n))
    single = bench.values([{((i,), i): 1.0} for i in every])
    joint = bench.values([{(every, i): 1.0} for i in every])
    names = tuple(task.name for task in bench.tasks)
    return TaskInteraction(
        names,
        method,
        matrix,
        low,
        high,
        single,
        joint,
        source,
        q,
        on_valid,
        fdr,
        len(bench.seeds),
        bench.trained,
    )


def _adjusted(p: np.ndarray) -> np.ndarray:
    """P values adjusted for the false discovery rate, NaN where there is none."""
    adjusted = np.full(len(p), np.nan)
    known = np.isfinite(p)
    if known.any():
        adjusted[known] = stats.false_discovery_control(p[known], method="bh")
    return adjusted


def _completed(
    found: TaskInteraction, known: Sequence[tuple[int, int]], clues: np.ndarray
) -> TaskInteraction:
    """Fill the cells that were not retrained: a ridge regression on the clues, the row and the
    column.

    A row's cells share the luck of its single-task model and how much the task needs help; left-out
    cells say how much of this to believe.
    """
    n = len(found.tasks)
    unknown = [cell for cell in cells_of(n) if found.source_TT[cell] == "estimated"]
    fitted = [
        cell
        for cell in known
        if np.isfinite(found.matrix_TT[cell]) and np.isfinite(found.valid_TT[cell])
    ]
    scale = clues.reshape(len(clues), -1).std(1)
    clues = np.nan_to_num(clues / np.where(scale > 0, scale, 1)[:, None, None])

    def described(cells: Sequence[tuple[int, int]]) -> np.ndarray:
        rows, columns = np.transpose(cells)
        return np.hstack([clues[:, rows, columns].T, np.eye(n)[rows], np.eye(n)[columns]])

    matrix, low, high, valid = (
        part.copy() for part in (found.matrix_TT, found.low_TT, found.high_TT, found.valid_TT)
    )
    at = tuple(np.transpose(unknown))
    if len(fitted) < 3:
        matrix[at] = low[at] = high[at] = valid[at] = np.nan
        return replace(found, matrix_TT=matrix, low_TT=low, high_TT=high, valid_TT=valid)
    targets = np.array([[found.matrix_TT[cell], found.valid_TT[cell]] for cell in fitted])
    ridge = fit_ridge(described(fitted), targets)
    estimate = ridge(described(unknown))
    doubt = 1.96 * float(np.sqrt(np.mean((targets - ridge.left_out_mO)[:, 0] ** 2)))
    matrix[at], valid[at] = estimate.T
    low[at] = matrix[at] - doubt
    high[at] = matrix[at] + doubt
    # Where a task has no metric, neither has any cell of its row.
    lost = ~np.isfinite(found.single_T)
    for part in (matrix, low, high, valid):
        part[lost] = np.nan
    agreement = _agreement(described(fitted), targets[:, :1])
    return replace(
        found, matrix_TT=matrix, low_TT=low, high_TT=high, valid_TT=valid, agreement=agreement
    )


def _agreement(described_mF: np.ndarray, targets_m1: np.ndarray) -> float:
    """Mean rank correlation of cells with their estimates within folds that these were not fitted
    on.

    Within, because an estimate that knows nothing is the mean of the other folds, which is low
    where a fold is high.
    """
    fold_m = np.random.default_rng(0).permutation(len(targets_m1)) % _FOLDS
    if len(targets_m1) < 4 * _FOLDS:
        return math.nan
    found = []
    for fold in range(_FOLDS):
        out = fold_m == fold
        estimate = fit_ridge(described_mF[~out], targets_m1[~out])(described_mF[out])[:, 0]
        varies = np.ptp(estimate) > 1e-12 and np.ptp(targets_m1[out]) > 0
        found.append(
            float(stats.spearmanr(estimate, targets_m1[out, 0]).statistic) if varies else 0.0
        )
    return float(np.mean(found))


# Shapley values -----------------------------------------------------------------------------------


def _shapley(bench: Bench, max_models: int | None, fdr: float) -> TaskInteraction:
    n = len(bench.tasks)
    left = _affordable(bench, max_models)
    subsets = (
        [s for size in range(1, n + 1) for s in itertools.combinations(range(n), size)]
        if n <= _EXACT_SHAPLEY
        else []
    )
    cells = cells_of(n)
    beyond = len(bench.lacking(subsets)) - len(bench.lacking(_ground(n)))
    if n <= _EXACT_SHAPLEY and (left is None or beyond <= left):
        draws = [{cell: _exact_contrast(n, *cell) for cell in cells}]
    else:
        draws = _sampled(bench, left)
    sets = list(
        dict.fromkeys(
            [*_ground(n), *(key[0] for draw in draws for c in draw.values() for key in c)]
        )
    )
    bench.plan(len(bench.lacking(sets)))
    bench.train(sets)
    contrasts = [_mean([draw[cell] for draw in draws]) for cell in cells]
    sampling = None
    if len(draws) > 1:
        by_draw = np.array([bench.values([draw[cell] for cell in cells]) for draw in draws])
        sampling = by_draw.std(0, ddof=1) / math.sqrt(len(draws))
    measured = bench.measure(contrasts, [i for i, _ in cells], sampling)
    return _assembled(bench, "shapley", fdr, cells, measured, bench.values(contrasts, VALID))


def _exact_contrast(n: int, i: int, j: int) -> Contrast:
    """The Shapley value of j for i: the sum over S without both of |S|! (n - 2 - |S|)! / (n - 1)!
    times the gain.
    """
    others = [k for k in range(n) if k not in (i, j)]
    contrast: dict[tuple[TaskSet, int], float] = {}
    for size in range(n - 1):
        weight = math.factorial(size) * math.factorial(n - 2 - size) / math.factorial(n - 1)
        for s in itertools.combinations(others, size):
            contrast[tuple(sorted((*s, i, j))), i] = weight
            contrast[tuple(sorted((*s, i))), i] = -weight
    return contrast


def _sampled(bench: Bench, left: int | None) -> list[dict[tuple[int, int], Contrast]]:
    """The gain of each cell in orders of the tasks, each order averaged with its reverse; as many
    as fit.
    """
    n = len(bench.tasks)
    seeds = len(bench.seeds)
    rng = np.random.default_rng(bench.configs[0].seed)
    draws: list[dict[tuple[int, int], Contrast]] = []
    sets: dict[TaskSet, None] = {}
    ground = len(bench.lacking(_ground(n)))
    while len(draws) < _ORDERS // 2 or left is not None:
        order = rng.permutation(n).tolist()
        forward = _gains(order)
        backward = _gains(order[::-1])
        draw = {cell: _mean([forward[cell], backward[cell]]) for cell in forward}
        more = dict.fromkeys([*sets, *(key[0] for contrast in draw.values() for key in contrast)])
        if left is not None and (
            len(bench.lacking([*_ground(n), *more])) - ground > left or len(draws) == _MOST_ORDERS
        ):
            break
        sets = more
        draws.append(draw)
    if len(draws) < 2:
        raise ValueError(
            f"max_models leaves {left} models; two sampled orders of {n} tasks and their reverses "
            f"need up to {2 * n * (n - 1) * seeds}"
        )
    return draws


def _gains(order: Sequence[int]) -> dict[tuple[int, int], Contrast]:
    """For each cell the gain of i when j joins it and the tasks that come before j in this
    order.
    """
    gains: dict[tuple[int, int], Contrast] = {}
    for i in order:
        joined: list[int] = [i]
        for j in order:
            if j != i:
                before = tuple(sorted(joined))
                after = tuple(sorted([*joined, j]))
                gains[i, j] = {(after, i): 1.0, (before, i): -1.0}
                joined.append(j)
    return gains


def _mean(contrasts: Sequence[Contrast]) -> Contrast:
    """The mean of contrasts; scores that cancel are left out."""
    total: dict[tuple[TaskSet, int], float] = {}
    for contrast in contrasts:
        for key, weight in contrast.items():
            total[key] = total.get(key, 0.0) + weight / len(contrasts)
    return {key: weight for key, weight in total.items() if abs(weight) > 1e-12}


# Hints of the joint model -------------------------------------------------------------------------


def _attention(bench: Bench, joint: Sequence[FittedModel]) -> np.ndarray:
    return np.stack([hints.attention(model, bench.cohort) for model in joint])


def _projection(bench: Bench, joint: Sequence[FittedModel]) -> np.ndarray:
    return np.stack([hints.projection(model, bench.bank.data(model.config)) for model in joint])


def _hinted(bench: Bench, method: str, fdr: float) -> TaskInteraction:
    """A matrix that the joint model alone gives, with the spread over seeds as its interval."""
    n = len(bench.tasks)
    n_seeds = len(bench.seeds)
    every = tuple(range(n))
    if method == "affinity":
        bench.plan(n_seeds)
        found = [
            hints.affinity(bench.bank.data(config), config, bench.resume)
            for config in bench.configs
        ]
        bench.reuse([model for _, model in found])
        by_seed = np.stack([matrix for matrix, _ in found])
    else:
        bench.plan(len(bench.lacking([every])))
        bench.train([every], keep=True)
        joint = [bench.kept[every, s] for s in range(n_seeds)]
        by_seed = _attention(bench, joint) if method == "attention" else _projection(bench, joint)
    matrix = by_seed.mean(0)
    reach = np.full((n, n), np.nan)
    if n_seeds > 1:
        reach = stats.t.ppf(0.975, n_seeds - 1) * by_seed.std(0, ddof=1) / math.sqrt(n_seeds)
    for part in (matrix, reach):
        np.fill_diagonal(part, 0)
    source = np.full((n, n), "estimated")
    np.fill_diagonal(source, "retrained")
    single = np.array(
        [bench.values([{((i,), i): 1.0}])[0] if bench.known((i,)) else math.nan for i in every]
    )
    joint = bench.values([{(every, i): 1.0} for i in every])
    names = tuple(task.name for task in bench.tasks)
    nothing = np.full((n, n), np.nan)
    return TaskInteraction(
        names, method, matrix, matrix - reach, matrix + reach, single, joint, source, nothing, matrix, fdr, n_seeds,
        bench.trained, unit=UNITS[method],
    )  # fmt: skip
