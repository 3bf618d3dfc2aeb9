"""Task interaction: speed of the exact matrix, what its tests find, and whether it repeats.

    python benchmarks/tim.py [--part speed|power|patients|attention] [--tables FOLDER] [--quick]

CPU time on one thread. *Speed*: all single-task and pair models of T tasks through `fit_many`,
against a loop of `fit` over the same models; a loop over more models than LOOPED is timed on so
many and scaled (*). The share of the roofline is that of the floating-point operations which the
networks need, over those of a large matrix product in the same time. *Power*: planted tasks drawn
again and again, of 200, 1,000 and 4,000 stays; the truth of a cell is its mean over others. A false
effect is one whose truth has the other sign or is smaller than NOTHING. *Patients*: of a folder of
the tables format; what is found in one half of the patients is looked for in the other.
*Attention*, of the same folder: whether what a task reads is what it gains in pairs.
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
from tim_attention import compare_attention
from tim_patients import measure_patients
from tim_power import measure_power
from training import ratio, seconds

from m3h_core import Cohort, FitConfig, TaskSpec, fit, fit_many
from m3h_core.data.cohort import TEST
from m3h_core.training.bank import Job

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


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ["speed", "power", "patients", "attention"]
    parser.add_argument("--part", choices=parts, help="one part only")
    parser.add_argument(
        "--tables", type=Path, help="a folder of the tables format, for patients and attention"
    )
    parser.add_argument(
        "--cache", type=Path, default=Path(".m3h/quality"), help="what is computed from them"
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
    if options.part in (None, "power"):
        measure_power(*(((200,), 1, 1) if quick else ((200, 1000, 4000), 40, 40)))
    if options.part in (None, "patients") and options.tables:
        measure_patients(options.tables, options.cache)
    if options.part in (None, "attention") and options.tables:
        compare_attention(options.tables, options.cache)


if __name__ == "__main__":
    main()
