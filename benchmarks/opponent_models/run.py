"""Make fits of a list, each in a process of its own, which the kernel ends beyond its CPU seconds.

    python -m opponent_models.run FITS.json

Fits whose file is there are left alone. A library is imported once and each fit forks from there,
so its clock starts with the fit. Libraries that have a time limit read the wall clock: in a fit's
process that is the CPU clock, so that a busy machine takes nothing from an opponent.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from itertools import groupby
from pathlib import Path

import numpy as np

from opponent_models.models import OPPONENTS
from opponent_models.protocol import (
    TEST,
    TRAIN,
    VALID,
    Fit,
    read_cohort,
    read_fits,
    write_prediction,
)
from opponent_models.rows import TaskRows


def cpu_seconds() -> float:
    """Of this process and those that it has started and that ended."""
    return sum(os.times()[:4])


def rows_of(fit: Fit) -> TaskRows:
    """What the opponent is given."""
    parts = read_cohort(Path(fit.cohort), fit.task)
    is_labelled = np.isfinite(parts["y"])
    train = parts[TRAIN] & is_labelled
    valid = parts[VALID] & is_labelled
    x = parts["x"]
    y = parts["y"]
    return TaskRows(
        problem=fit.problem,
        n_classes=fit.n_classes,
        x_train=x[train],
        y_train=y[train],
        x_valid=x[valid],
        y_valid=y[valid],
        x_test=x[parts[TEST]],
        seed=fit.seed,
        seconds=fit.seconds,
        checkpoints=fit.checkpoints,
    )


def make(fit: Fit) -> None:
    """Make one fit in this process and write its predictions."""
    warnings.filterwarnings("ignore")
    limit = int(np.ceil(fit.seconds))
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
    _tell_time_in_cpu_seconds()
    started = cpu_seconds()
    rows = rows_of(fit)
    if len(np.unique(rows.y_train)) < 2:
        prediction = constant(rows)
    else:
        prediction = OPPONENTS[fit.opponent].fit(rows)
    if not np.isfinite(prediction).all():
        raise ValueError("a prediction is no number")
    write_prediction(Path(fit.to), prediction, cpu_seconds() - started)


def constant(rows: TaskRows) -> np.ndarray:
    """The mean of the training labels, where all are the same or there are none."""
    mean = rows.y_train.mean() if len(rows.y_train) else 0.0
    shape = (len(rows.x_test), rows.n_classes) if rows.problem == "multiclass" else len(rows.x_test)
    return np.full(shape, mean)


def _tell_time_in_cpu_seconds() -> None:
    wall = time.time()
    steady = time.monotonic()
    clocks = {"time": lambda: wall + cpu_seconds(), "monotonic": lambda: steady + cpu_seconds()}
    vars(time).update(clocks)


def make_apart(fit: Fit) -> None:
    """Fork, make the fit there, and say how it went."""
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            make(fit)
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    _, status = os.waitpid(process, 0)
    what = f"{Path(fit.cohort).stem} {fit.opponent} {fit.task}"
    if status == 0:
        print(f"{what}: fitted", file=sys.stderr, flush=True)
    elif os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
        print(f"{what}: ended at {fit.seconds:g} CPU seconds", file=sys.stderr, flush=True)
    else:
        print(f"{what}: failed", file=sys.stderr, flush=True)


def missing_module(opponent: str) -> str:
    """Import what an opponent needs; the module that is not installed, or nothing."""
    for name in OPPONENTS[opponent].needs:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            return error.name or name
    return ""


def main(arguments: Sequence[str]) -> None:
    """Make all fits of the list that are not there, in its order."""
    fits = [fit for fit in read_fits(Path(arguments[0])) if not Path(fit.to).exists()]
    for opponent, of_opponent in groupby(fits, key=lambda fit: fit.opponent):
        missing = missing_module(opponent)
        if missing:
            reason = f"{sys.executable} has no module {missing}"
            print(f"{opponent} is left out: {reason}.", file=sys.stderr, flush=True)
            continue
        for fit in of_opponent:
            make_apart(fit)


if __name__ == "__main__":
    main(sys.argv[1:])
