"""What every job does around its work: its configuration, its log, its lock, and how it ends."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Generator
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil
from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, open_dagster_pipes

from m3h_pipeline.errors import InputError, remove_values
from m3h_pipeline.errors.endings import collect_messages, explain, find_exit_code
from m3h_pipeline.state.locks import hold_lock
from m3h_pipeline.state.permissions import set_private_umask
from m3h_pipeline.state.steps import code_version

Log = Callable[[str], None]
# What a job reports beside its results: counts and seconds, hidden so that the clock does not
# change a step's version.
FACTS = ".facts.json"
# What decides a job's result: another machine must hold the same.
CODE_PARTS = ("m3h_core", "m3h_pipeline.jobs")
_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# How long a job that was asked to end, and has written its state, may take to leave: less than a
# launcher's patience.
EXIT_SECONDS = 20.0


@contextmanager
def run_job() -> Generator[tuple[dict[str, Any], Log]]:
    """The job's configuration and a log function; nobody else writes into its folder meanwhile.

    Of the processes that torchrun starts for one job the first alone reports. A user's mistake, and
    too little memory, end it with one paragraph and exit code 1; a request to end (SIGTERM, Ctrl-C)
    with 128 + the signal's number, at once or, within `defer_signals`, when the state is written.
    """
    set_private_umask()
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True, help="the job's JSON file")
    file = parser.parse_args().config
    die_with_parent()
    for number in _SIGNALS:
        signal.signal(number, _leave)
    warnings.filterwarnings("ignore", category=FutureWarning)
    leads = int(os.environ.get("RANK", "0")) == 0
    try:
        config = _read(file)
        with _log() if leads else nullcontext(lambda line: None) as log:
            try:
                with _only_writer(Path(config["to"]), log) if leads else nullcontext():
                    yield config, log
            except Exception as error:
                if _out_of_memory(error):
                    raise InputError(_OUT_OF_MEMORY) from error
                message = explain(collect_messages(error))
                if message is not None:
                    raise InputError(message) from error
                left_out = remove_values(error)
                if left_out is error:
                    raise
                raise left_out from None
    except InputError as error:
        if DAGSTER_PIPES_CONTEXT_ENV_VAR in os.environ:
            with suppress(OSError):
                last_words(file).write_text(str(error))
        code = find_exit_code(str(error))
        if code is None:
            sys.exit(f"error: {error}")
        # Its last words may not have found room: the code says it too.
        print(f"error: {error}", file=sys.stderr)
        sys.exit(code)


def last_words(config: Path) -> Path:
    """Where a job that was launched leaves the paragraph that it ended with: engines pass on an
    exit code at best.
    """
    return config.with_suffix(".error")


@contextmanager
def _log() -> Generator[Log]:
    if DAGSTER_PIPES_CONTEXT_ENV_VAR not in os.environ:
        yield lambda line: print(line, file=sys.stderr, flush=True)
        return
    with open_dagster_pipes() as pipes:
        try:
            yield pipes.log.info
        except InputError as error:
            pipes.log.error(str(error))
            raise


def _read(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError:
        raise InputError(
            f"{file} is not on this machine: [launcher] storage must be a folder that every "
            "machine sees under the same path"
        ) from None
    if config.get("code", here := code_version(*CODE_PARTS)) != here:
        raise InputError(
            f"m3h here ({here}) is not what started this job ({config['code']}): install the same "
            "version on the machines, or in the image, that [launcher] names"
        )
    return config


@contextmanager
def _only_writer(to: Path, log: Log) -> Generator[None]:
    """A lock beside the folder: an earlier job that has lost its launcher may still be writing its
    state.
    """
    lock = to.with_name(f".{to.name.removeprefix('.').removesuffix('.partial')}.job.lock")
    with ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(lock, wait=False))
        except BlockingIOError:
            log(f"waiting for an earlier job that is still at work on {to.name}")
            stack.enter_context(hold_lock(lock))
        yield


@contextmanager
def defer_signals() -> Generator[Callable[[], bool]]:
    """Within, a request to end is only noted, for work that asks and then writes its state; after
    it, it is obeyed.
    """
    asked: list[int] = []
    for number in _SIGNALS:
        signal.signal(number, lambda number, _: asked.append(number))
    try:
        yield lambda: bool(asked)
    finally:
        for number in _SIGNALS:
            signal.signal(number, _leave)
        if asked:
            _leave(asked[0], None)


def _leave(number: int, _: object) -> None:
    code = 128 + number
    # Python waits for every pool of processes to end by itself. One that a signal met at the wrong
    # moment never does: its manager waits for workers that wait for work.
    last_resort = threading.Timer(EXIT_SECONDS, _end_at_once, (code,))
    last_resort.daemon = True
    last_resort.start()
    sys.exit(code)


def _end_at_once(code: int) -> None:
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(code)


_OUT_OF_MEMORY = (
    "out of memory. Models are trained side by side, a process a core: set [launcher] workers = 1 "
    "in m3h.toml; of a large cohort or many notes and images, run the job on a machine with more "
    "memory ([launcher] memory_gb), or with smaller images ([embedding] image_size). What was "
    "finished is kept: the next run goes on from there"
)


def _out_of_memory(error: BaseException) -> bool:
    """NumPy's and Python's own error, PyTorch's on a CPU and a GPU, and a pool of which a worker
    was killed.
    """
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return (
        isinstance(error, (MemoryError, BrokenExecutor))
        or any(word in str(error).lower() for word in words)
        or (error.__cause__ is not None and _out_of_memory(error.__cause__))
    )


def die_with_parent() -> None:
    """A worker whose launcher was killed must not go on writing (Linux; elsewhere the launcher's
    own kill is all).
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
