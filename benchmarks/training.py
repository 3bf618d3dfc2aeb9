"""Speed of training on one thread: `fit` against plain PyTorch, LibMTL and TorchJD; `fit_many`
against a loop of `fit`.

    python benchmarks/training.py [--part fit|bank] [--features 256 1024] [--models 1 16 64 300]
        [--repeats 3] [--quick]

CPU time, the median of runs that take turns. A ratio is how many times faster ours is. Every
contender trains a network of the same shape on the same tensors, for the same epochs, with a
validation pass after each; data are ready before the clock starts, except in `fit_many` against
`fit`, where preparing them is part of both.

LibMTL runs in its own Trainer (hard parameter sharing, equal weights), put on the CPU and fed whole
batches of tensors instead of a DataLoader. It is not a dependency: clone it from GitHub and put it
on PYTHONPATH; its last release on PyPI, 1.1.5, doesn't load beside a torchvision of today. TorchJD
runs in the plain loop, with `backward` (faster here than `mtl_backward`) and `Sum`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import combinations, islice

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from training_contenders import (
    CONTENDERS,
    EPOCHS,
    MODULES,
    N_TASKS,
    TASKS,
)

from m3h_core import Cohort, FitConfig, fit, fit_many
from m3h_core.training.bank import Job
from m3h_core.training.prepared import Prepared

FIT_LIMITS = {"plain": 0.9, "LibMTL": 1.0}
# By the number of features, for 16 models and more; elsewhere fit_many is to be no slower.
BANK_LIMITS = {256: 3.0, 1024: 1.8}
NO_SLOWER = 0.95  # 1, but for the clock's noise
# The loop over more models than these is timed on these and scaled.
LOOPED = 30
LEAST_SECONDS = 3.0
MOST_TURNS = 15
N_ROWS = 3000


def cohort_of(features: int) -> Cohort:
    """Rows whose labels hang on a few directions of one modality; a tenth of the labels is
    missing.
    """
    rng = np.random.default_rng(0)
    causes = rng.normal(size=(N_ROWS, 8))
    x = causes @ rng.normal(size=(8, features)) + rng.normal(size=(N_ROWS, features))
    scores = causes @ rng.normal(size=(8, N_TASKS)) + rng.normal(size=(N_ROWS, N_TASKS))
    labels = {
        t.name: s if t.problem == "regression" else (s > 0) * 1.0
        for t, s in zip(TASKS, scores.T, strict=True)
    }
    return Cohort(
        sample_ids=[str(i) for i in range(N_ROWS)],
        split=np.arange(N_ROWS) % 5 == 0,  # four fifths train, a fifth valid
        embeddings={"all": x.astype(np.float32)},
        present={"all": np.ones(N_ROWS, dtype=bool)},
        labels=labels,
        labelled={name: rng.random(N_ROWS) < 0.9 for name in labels},
    )


# Measuring ----------------------------------------------------------------------------------------


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one run."""
    started = time.process_time()
    work()
    return time.process_time() - started


def medians(
    works: Mapping[str, Callable[[], Callable[[], object]]], repeats: int
) -> dict[str, float]:
    """Median CPU seconds of works that take turns, each made anew before its clock starts; short
    ones take more.
    """
    taken: dict[str, list[float]] = {name: [] for name in works}
    for new in works.values():
        new()()  # the first run of a shape is slower
    for turn in range(MOST_TURNS):
        if turn >= repeats and sum(map(sum, taken.values())) > LEAST_SECONDS:
            break
        for name, new in works.items():
            taken[name].append(seconds(new()))
    return {name: statistics.median(values) for name, values in taken.items()}


def ratio(value: float, limit: float | None) -> str:
    """A ratio beside its limit; one that misses it is marked."""
    if limit is None:
        return f"{value:.2f}"
    return f"{value:.2f}, limit {limit:g}" + (" MISSED" if value < limit else "")


def measure_fit(features: list[int], repeats: int, epochs: int) -> None:
    """Print samples a second of one network under each contender."""
    print(
        f"\nfit: hidden {FitConfig().hidden}, {N_TASKS} tasks, batch 128; thousand samples a "
        "second, and ours over it"
    )
    print(f"{'attention':<11}{'inputs':>7}" + "".join(f"{name:>26}" for name in CONTENDERS))
    for attention in (False, True):
        config = FitConfig(
            members=1, linear_path=False, attention=attention, epochs=epochs, patience=epochs
        )
        for n in features:
            prepared = Prepared.of(cohort_of(n), TASKS, config)
            runs = {
                name: replace(config, epochs=EPOCHS.get(name, epochs))
                for name in CONTENDERS
                if find_spec(MODULES.get(name, "torch"))
            }
            taken = medians(
                {name: partial(CONTENDERS[name], prepared, run) for name, run in runs.items()},
                repeats,
            )
            rates = {
                name: len(prepared.data.x_train) * run.epochs / taken[name] / 1000
                for name, run in runs.items()
            }
            cells = [f"{rates['ours']:.1f}"]
            for name in list(CONTENDERS)[1:]:
                if name in rates:
                    cells.append(
                        f"{rates[name]:.1f}  "
                        f"{ratio(rates['ours'] / rates[name], FIT_LIMITS.get(name))}"
                    )
                else:
                    cells.append("not installed")
            print(
                f"{'on' if attention else 'off':<11}{n:>7}" + "".join(f"{c:>26}" for c in cells),
                flush=True,
            )


def fit_each(cohort: Cohort, jobs: Sequence[Job]) -> None:
    """The loop that `fit_many` replaces."""
    for tasks, config in jobs:
        fit(cohort, tasks, config)


def measure_bank(
    name: str,
    config: FitConfig,
    features: list[int],
    models: list[int],
    limits: Mapping[int, float] | None,
    repeats: int,
) -> None:
    """Print CPU seconds of `fit_many` and of the loop; the models are pairs of tasks."""
    print(
        f"\nfit_many: {name}, pairs of tasks, {config.epochs} epochs; * the loop is timed on "
        f"{LOOPED} and scaled"
    )
    print(f"{'inputs':>7}{'models':>8}{'loop s':>9}{'fit_many s':>12}   ratio")
    for n in features:
        cohort = cohort_of(n)
        for count in models:
            jobs = [(pair, config) for pair in islice(combinations(TASKS[:-2], 2), count)]
            looped = jobs[:LOOPED]
            works = {
                "loop": partial(partial, fit_each, cohort, looped),
                "many": partial(partial, fit_many, cohort, jobs),
            }
            taken = medians(works, repeats)
            loop = taken["loop"] * len(jobs) / len(looped)
            limit = None
            if limits is not None:
                limit = limits.get(n, NO_SLOWER) if count >= 16 else NO_SLOWER
            mark = "*" if len(looped) < len(jobs) else " "
            print(
                f"{n:>7}{count:>8}{loop:>8.2f}{mark}{taken['many']:>12.2f}   "
                f"{ratio(loop / taken['many'], limit)}",
                flush=True,
            )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=["fit", "bank"], help="one part only")
    parser.add_argument("--features", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--models", type=int, nargs="+", default=[1, 16, 64, 300])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--quick", action="store_true", help="one run of each, of the smallest sizes"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    features = options.features
    models = options.models
    repeats = options.repeats
    if options.quick:
        features = features[:1]
        models = models[:2]
        repeats = 1
    if options.part != "bank":
        measure_fit(features, repeats, epochs=2 if options.quick else 3)
    if options.part != "fit":
        small = FitConfig(hidden=(32,), epochs=5, patience=5)
        measure_bank(
            "hidden (32,), else the default", small, features, models, BANK_LIMITS, repeats
        )
        default = FitConfig(epochs=2, patience=2)
        measure_bank("the default network", default, features, models[:2], None, repeats=1)


if __name__ == "__main__":
    main()
