"""What a launcher starts: ``python -m m3h_pipeline.jobs.<name> --config job.json``.

A job reads one JSON file and writes one folder. It runs the same by hand as under Dagster, where its progress appears
in the run's log through Dagster Pipes. Jobs import m3h_core, dagster_pipes and mlflow, never dagster.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, open_dagster_pipes

from m3h_pipeline.errors import InputError

if TYPE_CHECKING:
    from m3h_core import FitConfig

Log = Callable[[str], None]
# What a job reports beside its results: counts and seconds, hidden so that the clock does not change a step's version.
FACTS = ".facts.json"
_PR_SET_PDEATHSIG = 1
_MOST_WORKERS = 8


@contextmanager
def job() -> Generator[tuple[dict[str, Any], Log]]:
    """The job's configuration and a log function; a user's mistake ends it with one paragraph and exit code 1."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True, help="the job's JSON file")
    config = json.loads(parser.parse_args().config.read_text())
    _die_with_parent()
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        if DAGSTER_PIPES_CONTEXT_ENV_VAR not in os.environ:
            yield config, lambda line: print(line, file=sys.stderr, flush=True)
            return
        with open_dagster_pipes() as pipes:
            try:
                yield config, pipes.log.info
            except InputError as error:
                pipes.log.error(str(error))
                raise
    except InputError as error:
        sys.exit(f"error: {error}")


def fit_config(training: dict[str, Any]) -> FitConfig:
    """The configuration of every network of a run, from the section ``[training]`` of m3h.toml."""
    from m3h_core import FitConfig  # torch: the launcher imports this module too

    return FitConfig(**{name: training[name] for name in ("seed", "epochs")})


def cpu_workers() -> int:
    """How many chunks of models to train at once: the processor's cores, as far as memory is likely to reach."""
    from joblib import cpu_count

    return min(cpu_count(), _MOST_WORKERS)


def every(seconds: float, log: Log) -> Log:
    """A log function that lets a line through at most once in so many seconds: progress, not a flood."""
    last = time.monotonic()

    def limited(line: str) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            log(line)

    return limited


def _die_with_parent() -> None:
    """A worker whose launcher was killed must not go on writing (Linux; elsewhere the launcher's own kill is all)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
