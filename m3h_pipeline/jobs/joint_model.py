"""The joint model: its kinds of networks, their training, and their losses in MLflow."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any

from m3h_core import Cohort, FitConfig, FittedModel, TaskSpec
from m3h_core.config import recurrent_config
from m3h_core.ensemble.fold_models import FoldModels
from m3h_core.ensemble.mixture import average_networks
from m3h_core.training.cross_fit import cross_fit
from m3h_core.training.trainer import Stopped
from m3h_core.workers import single_torch_thread
from m3h_pipeline.jobs.curves import CURVES, RECURRENT_CURVES, read_curves
from m3h_pipeline.jobs.job import Log, defer_signals
from m3h_pipeline.jobs.progress import Progress, limit_rate
from m3h_pipeline.jobs.settings import fit_config
from m3h_pipeline.registry import tracking
from m3h_pipeline.state.data_files import write_arrays
from m3h_pipeline.state.layout import NETWORKS, PREDICTIONS, RECURRENT_NETWORKS

# Between two calls to MLflow: curves are live, and cost nothing.
_LIVE_SECONDS = 10


@dataclass(frozen=True)
class NetworkKind:
    """One kind of the joint model's networks: its name in the log and in MLflow, and what it learns
    from.
    """

    name: str
    prefix: str
    curves: str
    cohort: Cohort
    tasks: Sequence[TaskSpec]
    settings: FitConfig


def list_kinds(
    cohort: Cohort, tasks: Sequence[TaskSpec], config: dict[str, Any]
) -> dict[str, NetworkKind]:
    """The kinds of networks that are trained, by the folder of their models: one reads all inputs
    as vectors; where there are time series another reads these step by step, and learns no
    clusters.
    """
    settings = fit_config(config)
    kinds = {NETWORKS: NetworkKind("joint model", "", CURVES, cohort, tasks, settings)}
    own_tasks = [task for task in tasks if task.problem != "clustering"]
    if cohort.series is not None and own_tasks:
        own_settings = recurrent_config(settings, config["series_steps"])
        kinds[RECURRENT_NETWORKS] = NetworkKind(
            "recurrent network",
            "recurrent/",
            RECURRENT_CURVES,
            cohort.with_series(),
            own_tasks,
            own_settings,
        )
    return kinds


@tracking.explain_failures()
def joint(
    cohort: Cohort, tasks: Sequence[TaskSpec], config: dict[str, Any], to: Path, log: Log
) -> dict[str, Any]:
    """The M3H model on all tasks, its curves and parameters in MLflow; by all processes that
    torchrun has started. Its predictions are the mean of those of both kinds of networks.
    """
    kinds = list_kinds(cohort, tasks, config)
    rank = join_processes()

    def train(folder: str, **options: Any) -> FoldModels[FittedModel]:
        kind = kinds[folder]
        return cross_fit(
            kind.cohort,
            kind.tasks,
            kind.settings,
            resume=to / ".checkpoint" / folder,
            distributed=rank is not None,
            **options,
        )

    if rank:
        with defer_signals() as stop, suppress(Stopped):
            for folder in kinds:
                train(folder, stop=stop)
        return {}
    import mlflow

    run = config["mlflow"]
    tracking.connect(run["uri"], Path(run["artifacts"]))
    with tracking.start_training_run(run["key"], run["name"], run["tags"]) as active:
        settings = fit_config(config)
        mlflow.log_params({"tasks": len(tasks), "samples": len(cohort), **settings.to_dict()})
        curves = {
            folder: Curves(to / kind.curves, active.info.run_id, kind.prefix)
            for folder, kind in kinds.items()
        }
        lock = Lock()

        def train_and_follow(folder: str, stop: Callable[[], bool]) -> FoldModels[FittedModel]:
            kind = kinds[folder]
            on_epoch = _follow_epochs(kind, curves[folder], log, lock)
            try:
                return train(folder, on_epoch=on_epoch, stop=stop)
            except Stopped:
                log(f"{kind.name}: stopped; its state is kept, and the next run goes on from there")
                raise

        # On a CPU one of the networks leaves cores idle; a GPU has nothing to spare.
        is_on_cpu = settings.torch_device.type == "cpu" and rank is None
        try:
            with defer_signals() as stop:
                models = train_all(list(kinds), train_and_follow, stop, is_on_cpu)
        finally:
            for of_kind in curves.values():
                of_kind.show()
    predictions = []
    for folder, kind in kinds.items():
        models[folder].save(to / folder)
        predictions.append(models[folder].predict_unseen(kind.cohort))
    write_arrays(to / PREDICTIONS, average_networks(predictions))
    return {
        "epochs": len(curves[NETWORKS]),
        "models": cohort.n_folds * len(kinds),
        "mlflow_run": active.info.run_id,
    }


def train_all(
    folders: Sequence[str],
    train: Callable[[str, Callable[[], bool]], FoldModels[FittedModel]],
    stop: Callable[[], bool],
    side_by_side: bool,
) -> dict[str, FoldModels[FittedModel]]:
    """Train each kind, in turn or each by a thread; where one fails the others stop too."""
    if not side_by_side or len(folders) < 2:
        return {folder: train(folder, stop) for folder in folders}
    has_failed = Event()

    def train_one(folder: str) -> FoldModels[FittedModel]:
        try:
            return train(folder, lambda: stop() or has_failed.is_set())
        except BaseException:
            has_failed.set()
            raise

    with single_torch_thread(), ThreadPoolExecutor(len(folders)) as pool:
        futures = {folder: pool.submit(train_one, folder) for folder in folders}
    errors = [error for future in futures.values() if (error := future.exception())]
    # The one that failed, not those that were stopped for it.
    for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):
        raise error
    return {folder: future.result() for folder, future in futures.items()}


def _follow_epochs(
    kind: NetworkKind, curves: Curves, log: Log, lock: Lock
) -> Callable[[int, dict[str, Any]], None]:
    """What reports an epoch of a fold: its progress, and of the first fold the losses; with the
    ``lock``, since kinds are trained side by side.
    """
    n_folds = kind.cohort.n_folds
    names = [f"{kind.name}, fold {fold + 1} of {n_folds}: epoch" for fold in range(n_folds)]
    if n_folds == 1:
        names = [f"{kind.name}: epoch"]
    progress = [Progress(name, log) for name in names]
    show = limit_rate(_LIVE_SECONDS, lambda _: curves.show())

    def on_epoch(fold: int, state: dict[str, Any]) -> None:
        with lock:
            progress[fold](state["epoch"] + 1, state["epochs"])
            if fold == 0:
                curves.add(state)
                show("")

    return on_epoch


def join_processes() -> int | None:
    """This process's place among those of torchrun, None where it was started alone."""
    if "WORLD_SIZE" not in os.environ:
        return None
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank()


class Curves:
    """The losses of all epochs, in a file first: those that MLflow has not seen are sent in one
    call, at any time. ``prefix`` sets those of a second kind of network apart.

    So they are live, and whole after a kill: a training that goes on sends what the killed one
    could not.
    """

    def __init__(self, file: Path, run_id: str, prefix: str = "") -> None:
        self.file = file
        self.run_id = run_id
        self.prefix = prefix
        self.sent: set[int] | None = None

    def add(self, state: dict[str, Any]) -> None:
        """One epoch, as `m3h_core.fit` reports it."""
        with self.file.open("a") as stream:
            stream.write(json.dumps(state) + "\n")

    def epochs(self) -> dict[int, dict[str, Any]]:
        """By their number."""
        return read_curves(self.file)

    def __len__(self) -> int:
        return len(self.epochs())

    @tracking.explain_failures()
    def show(self) -> None:
        """Send what is new."""
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        client = MlflowClient()
        if self.sent is None:
            history = client.get_metric_history(self.run_id, f"{self.prefix}train_loss")
            self.sent = {metric.step for metric in history}
        new = {epoch: state for epoch, state in self.epochs().items() if epoch not in self.sent}
        now = int(time.time() * 1000)
        metrics = [
            Metric(self.prefix + name, float(value), now, epoch)
            for epoch, state in new.items()
            for name, value in state.items()
            if name.endswith("valid_loss") or name == "train_loss"
            if value == value  # a task without validation labels has none
        ]
        for start in range(0, len(metrics), 1000):
            client.log_batch(self.run_id, metrics=metrics[start : start + 1000])
        self.sent |= set(new)
