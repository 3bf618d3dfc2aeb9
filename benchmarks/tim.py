"""Task interaction: speed of the exact matrix, what cheap estimates are worth, and how often its
intervals are right.

    python benchmarks/tim.py [--part speed|estimators|coverage]
        [--data challenge2012-set-a.csv.gz] [--quick]

CPU time on one thread. *Speed*: all single-task and pair models of T tasks through `fit_many`,
against a loop of `fit` over the same models; a loop over more models than LOOPED is timed on so
many and scaled (*). The share of the roofline is that of the floating-point operations which the
networks need, over those of a large matrix product in the same time. *Estimators*: the rank
correlation of cheap estimates with the exact matrix over several seeds, beside the highest that any
estimate can expect (the square root of the matrix's own reliability, from its halves by seeds).
*Coverage*: cohorts drawn again and again; the truth of a cell is its mean over other seeds on a
large test population. A false edge is one called evidence whose truth has the other sign or is
smaller than NOTHING.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from scipy import stats
from tim_coverage import PLAIN, measure_coverage
from training import ratio, seconds

from m3h_core import Cohort, FitConfig, TaskSpec, fit, fit_many, task_interaction
from m3h_core.data.cohort import TEST
from m3h_core.tim import TaskSetEvaluator, shrink_network
from m3h_core.tim.affinity import measure_affinity
from m3h_core.tim.matrix import list_cells
from m3h_core.tim.pairwise import pair_contrast
from m3h_core.training.bank import Bank, Job

LOOPED = 24
SPEED_LIMIT = 3.0
SPEED = FitConfig(
    hidden=(32,),
    members=1,
    linear_path=False,
    borrowing=False,
    epochs=20,
    patience=20,
    dropout=0.1,
    modality_dropout=0,
)
CEILING_SHARE = 0.9
COST_SHARE = 0.05


def planted(
    tasks: int,
    rows: int,
    features: int,
    seed: int = 0,
    *,
    group: int = 4,
    scarce: int = 80,
    test: int = 1500,
) -> tuple[Cohort, list[TaskSpec]]:
    """Binary tasks in groups of one cause each, every second with ``scarce`` training labels only;
    70 / 30 / test.
    """
    rng = np.random.default_rng(seed)
    total = rows + test
    train = int(0.7 * rows)
    x = rng.normal(size=(total, features)).astype(np.float32)
    split = np.repeat([0, 1, TEST], [train, rows - train, test])
    labels = {}
    labelled = {}
    for t in range(tasks):
        directions = np.random.default_rng([seed, t // group, 7]).normal(
            size=(features, 2)
        ) / math.sqrt(features)
        straight, bent = (x @ directions).T
        cause = 1.5 * straight + 3 * (np.abs(bent) - math.sqrt(2 / math.pi))
        labels[f"task_{t}"] = (cause + rng.logistic(size=total) > 0).astype(float)
        all_labelled = np.ones(total, bool)
        if t % 2:
            for first, end, kept in ((0, train, scarce), (train, rows, max(20, scarce // 2))):
                all_labelled[first:end] = False
                all_labelled[
                    first + rng.choice(end - first, min(kept, end - first), replace=False)
                ] = True
        labelled[f"task_{t}"] = all_labelled
    ids = [str(i) for i in range(total)]
    cohort = Cohort(ids, split, {"x": x}, {"x": np.ones(total, bool)}, labels, labelled)
    return cohort, [TaskSpec(name, "binary") for name in labels]


# Speed --------------------------------------------------------------------------------------------


def models_of(tasks: Sequence[TaskSpec], config: FitConfig) -> list[Job]:
    """All single-task and pair models."""
    return [([*members], config) for size in (1, 2) for members in combinations(tasks, size)]


def operations(
    rows: int, features: int, jobs: Sequence[Job], config: FitConfig, epochs: int
) -> float:
    """Floating-point operations of the products of training: forward, and twice backward but for
    the inputs.
    """
    first = 2 * 2 * features * config.hidden[0]
    later = sum(
        3 * 2 * len(tasks) * config.width * (config.hidden[0] + len(tasks) + 1) for tasks, _ in jobs
    )
    return rows * epochs * (len(jobs) * first + config.members * later)


def peak() -> float:
    """Floating-point operations a second of a large matrix product on this thread."""
    a = torch.randn(1024, 1024)
    b = torch.randn(1024, 1024)

    def multiply() -> None:
        for _ in range(20):
            a @ b

    best = min(seconds(multiply) for _ in range(5))
    return 20 * 2 * 1024**3 / best


def measure_speed(counts: Sequence[int], features: int, rows: int, repeats: int) -> None:
    """Print what the exact matrix of T tasks costs beside the loop."""
    print(
        f"\nspeed: {features} inputs, {rows} rows, hidden {SPEED.hidden}, {SPEED.epochs} epochs; "
        "CPU s, median"
    )
    print(f"{'T':>3}{'models':>8}{'loop s':>10}{'fit_many s':>12}{'roofline':>10}   ratio")
    roof = peak()
    taken = []
    for count in counts:
        cohort, tasks = planted(count, rows, features, test=10)
        jobs = models_of(tasks, SPEED)
        sample = [
            jobs[i] for i in np.linspace(0, len(jobs) - 1, min(LOOPED, len(jobs))).astype(int)
        ]
        fit(cohort, *sample[0])  # the first run of a shape is slower
        loops = []
        banks = []
        for _ in range(repeats):
            loops.append(
                seconds(lambda s=sample, c=cohort: [fit(c, *job) for job in s])
                * len(jobs)
                / len(sample)
            )
            banks.append(seconds(lambda j=jobs, c=cohort: fit_many(c, j)))
        loop = float(np.median(loops))
        bank = float(np.median(banks))
        share = operations(int(0.7 * rows), features, jobs, SPEED, SPEED.epochs) / bank / roof
        mark = "*" if len(sample) < len(jobs) else " "
        taken.append((len(jobs), bank))
        limit = SPEED_LIMIT if features >= 256 else None
        print(
            f"{count:>3}{len(jobs):>8}{loop:>9.2f}{mark}{bank:>12.2f}{share:>10.2f}   "
            f"{ratio(loop / bank, limit)}"
        )
    if len(taken) > 1:
        slope = stats.linregress(*np.log(np.array(taken)).T).slope
        print(f"seconds grow with the number of models to the power of {slope:.2f}")
    measure_gpu()


def measure_gpu() -> None:
    """The size that a GPU should take under a minute for, where there is one."""
    if not torch.cuda.is_available():
        print("no GPU here: 44 tasks, 990 models, 30,000 rows, 512 inputs, 20 epochs was not run")
        return
    cohort, tasks = planted(44, 43_000, 512, test=10)
    config = replace(SPEED, device="cuda")
    jobs = models_of(tasks, config)
    sample = jobs[:: len(jobs) // 5]

    def wall(work: Callable[[], object]) -> float:
        torch.cuda.synchronize()
        started = time.monotonic()
        work()
        torch.cuda.synchronize()
        return time.monotonic() - started

    wall(lambda: fit(cohort, *sample[0]))
    loop = wall(lambda: [fit(cohort, *job) for job in sample]) * len(jobs) / len(sample)
    bank = wall(lambda: fit_many(cohort, jobs))
    print(
        f"GPU, 990 models: {bank:.0f} s, limit 60; the loop* {loop:.0f} s, {ratio(loop / bank, 50)}"
    )


# Estimators ---------------------------------------------------------------------------------------


def matrices(evaluator: TaskSetEvaluator) -> np.ndarray:
    """The matrix [S, T, T] of every seed; the diagonal is NaN."""
    n = len(evaluator.tasks)
    by_seed = np.full((len(evaluator.seeds), n, n), np.nan)
    for s in range(len(evaluator.seeds)):
        for i, j in list_cells(n):
            by_seed[s, i, j] = sum(
                weight * evaluator.scored[members, s][task].test
                for (members, task), weight in pair_contrast(i, j).items()
            )
    return by_seed


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, over the cells that both have."""
    is_defined = np.isfinite(a) & np.isfinite(b)
    return float(stats.spearmanr(a[is_defined], b[is_defined]).statistic)


def reliability(by_seed: np.ndarray) -> float:
    """Of the mean over all seeds, from the correlation of halves (Spearman and Brown), over several
    ways to halve.
    """
    rng = np.random.default_rng(0)
    seeds = len(by_seed)
    halves = []
    for _ in range(20):
        order = rng.permutation(seeds)
        a = by_seed[order[: seeds // 2]].mean(0)
        b = by_seed[order[seeds // 2 : 2 * (seeds // 2)]].mean(0)
        halves.append(rank_correlation(a, b))
    r = float(np.mean(halves))
    return max(0.0, 2 * r / (1 + r))


def overlap(a: np.ndarray, b: np.ndarray, share: float = 0.05) -> float:
    """How many of the largest cells of one are among the largest of the other."""
    is_defined = np.isfinite(a) & np.isfinite(b)
    count = max(1, round(share * is_defined.sum()))
    top = [set(np.argsort(-m[is_defined])[:count].tolist()) for m in (a, b)]
    return len(top[0] & top[1]) / count


def measure_estimators(
    name: str, cohort: Cohort, tasks: Sequence[TaskSpec], config: FitConfig, seeds: int
) -> None:
    """Print each estimate's correlation with the exact matrix; estimates use a seed that the matrix
    has not.
    """
    evaluator = TaskSetEvaluator(cohort, tasks, config, range(1, seeds + 1), n_bootstrap=1)
    n = len(tasks)
    spent = (
        seconds(lambda: evaluator.train([*((i,) for i in range(n)), *combinations(range(n), 2)]))
        / seeds
    )
    by_seed = matrices(evaluator)
    exact = by_seed.mean(0)
    reliable = reliability(by_seed)
    ceiling = math.sqrt(reliable)
    print(f"\nestimators: {name}, {n} tasks; exact over {seeds} seeds: {spent:.0f} CPU s a seed")
    target = CEILING_SHARE * ceiling
    print(
        f"reliability {reliable:.2f}, ceiling {ceiling:.2f}, target {target:.2f} at "
        f"{COST_SHARE:.0%} of the cost"
    )
    print(f"{'estimate':<26}{'Spearman':>9}{'of ceiling':>11}{'top 5%':>8}{'cost':>8}")

    def row(label: str, matrix: np.ndarray, cost: float) -> None:
        correlation = rank_correlation(matrix, exact)
        print(
            f"{label:<26}{correlation:>9.2f}{correlation / max(ceiling, 1e-9):>11.2f}"
            f"{overlap(matrix, exact):>8.2f}"
            f"{cost / spent:>8.1%}",
            flush=True,
        )

    other = replace(config, seed=0)
    prepared = Bank(cohort, tasks).prepared(other)
    off = np.where(np.eye(n, dtype=bool), np.nan, 0)
    estimates: list[np.ndarray] = []
    cost = seconds(lambda: estimates.append(measure_affinity(prepared, other)[0]))
    row("affinity", estimates[0] + off, cost)
    for label, small in (
        ("one seed of pairs", other),
        ("pairs, light network", shrink_network(other)),
    ):
        if label != "one seed of pairs" and sum(config.hidden) < 8 * sum(small.hidden):
            continue
        single = TaskSetEvaluator(cohort, tasks, small, (0,), n_bootstrap=1)
        cost = seconds(
            lambda b=single: b.train([*((i,) for i in range(n)), *combinations(range(n), 2)])
        )
        row(label, matrices(single)[0], cost)
    ground = n + 1
    for share in (0.05, 0.1, 0.25):
        budget = ground + round(share * n * (n - 1) / 2)
        run: list[np.ndarray] = []
        cost = seconds(lambda m=budget, r=run: r.append(_estimated(cohort, tasks, other, m)))
        row(f"budget: {share:.0%} of the pairs", run[0] + off, cost)


def _estimated(
    cohort: Cohort, tasks: Sequence[TaskSpec], config: FitConfig, most: int
) -> np.ndarray:
    return task_interaction(
        cohort, tasks, config=config, seeds=(config.seed,), max_models=most, n_bootstrap=1
    ).matrix_TT


# Coverage -----------------------------------------------------------------------------------------


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=["speed", "estimators", "coverage"], help="one part only")
    parser.add_argument(
        "--data", type=Path, help="Challenge 2012, set A, for the estimators on real records"
    )
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="the smallest sizes, once")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quick = options.quick
    if options.part in (None, "speed"):
        measure_speed(
            [6] if quick else [6, 12, 24, 44],
            options.features,
            300 if quick else options.rows,
            1 if quick else 3,
        )
    if options.part in (None, "estimators"):
        if quick:
            measure_estimators(
                "planted", *planted(4, 300, 16, test=200), replace(PLAIN, epochs=3), seeds=2
            )
        else:
            measure_estimators("planted, network of 32", *planted(44, 1500, 64), PLAIN, seeds=6)
            measure_estimators(
                "planted, default network", *planted(12, 1500, 64), FitConfig(), seeds=4
            )
        if options.data:
            from quality_study.summary import TASKS, Table, cohort_of, embedded

            table = Table.read(options.data)
            cohort = embedded(cohort_of(table, 0), table)
            measure_estimators(
                "Challenge 2012, network of 32",
                cohort,
                list(TASKS),
                shrink_network(FitConfig()),
                seeds=6,
            )
            measure_estimators(
                "Challenge 2012, default network", cohort, list(TASKS), FitConfig(), seeds=4
            )
    if options.part in (None, "coverage"):
        measure_coverage(*((1, 2, 2, 100, 200) if quick else (40, 3, 20, 300, 20_000)))


if __name__ == "__main__":
    main()
