"""Where people open Dagster and MLflow of an out-folder, and the lock that lets one ``m3h ui``
serve it.

``<out>/ui.lock`` says which process serves, or served last, and at which ports, so that links lead
there. The lock itself is the system's: it is free when the process and those below it are gone.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
import platform
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import psutil

from m3h_pipeline.errors import InputError

FILE = "ui.lock"
HOST = "127.0.0.1"
# What a killed `m3h ui` leaves needs its grace to end; see m3h_pipeline/cli/servers.py.
_PATIENCE_SECONDS = 40


@dataclass(frozen=True)
class Server:
    """Who serves an out-folder, or did so last, and at which ports."""

    port: int = 3000
    mlflow_port: int = 5000
    pid: int = 0
    host: str = ""
    since: str = ""

    @property
    def dagster_page(self) -> str:
        """Dagster's address."""
        return f"http://{HOST}:{self.port}"

    @property
    def mlflow_page(self) -> str:
        """MLflow's address, unless it is a server elsewhere."""
        return f"http://{HOST}:{self.mlflow_port}"


def read_last_server(out: Path) -> Server:
    """What the last `m3h ui` of an out-folder wrote; the usual ports where there was none."""
    try:
        return Server(**json.loads((out / FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return Server()


def is_served(out: Path) -> bool:
    """Whether an `m3h ui` serves the out-folder now."""
    try:
        with (out / FILE).open() as file:
            return not _lock(file)
    except OSError:
        return False


@contextmanager
def lock_server(out: Path) -> Generator[IO[str]]:
    """Hold the lock of an out-folder; yields its file, which a process that inherits it holds too.

    Raises `InputError` where another `m3h ui` serves the folder.
    """
    try:
        file = (out / FILE).open("a+")
    except OSError as error:
        raise InputError(
            f"{out} can't be written ({error.strerror}): choose another folder with --out"
        ) from None
    with file:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not _lock(file):
            served = read_last_server(out)
            if _is_alive(served) or time.monotonic() > deadline:
                raise InputError(_taken(out, served))
            time.sleep(0.5)
        yield file


def record_server(file: IO[str], port: int, mlflow_port: int) -> Server:
    """Write into the lock's file who serves, and where."""
    now = dt.datetime.now().astimezone().isoformat(timespec="seconds")
    served = Server(port, mlflow_port, os.getpid(), platform.node(), now)
    file.seek(0)
    file.truncate()
    file.write(json.dumps(asdict(served)) + "\n")
    file.flush()
    return served


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(served: Server) -> bool:
    """Whether the process that took the lock is there; of another machine it can't be told."""
    return served.host != platform.node() or psutil.pid_exists(served.pid)


def _taken(out: Path, served: Server) -> str:
    return (
        f"{out} is served already by the process {served.pid} on {served.host or 'this machine'}, "
        f"`m3h ui` since {served.since}: Dagster at {served.dagster_page}, MLflow at "
        f"{served.mlflow_page}. With two daemons on one folder every night would start twice: use "
        f"those pages, or end that process first (Ctrl-C where it runs, or kill {served.pid})"
    )
