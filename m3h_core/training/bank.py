"""``fit_many``: many models trained as one wide model.

Models of equal layout and configuration read the same batches: one matrix product serves all their
first layers, and their later layers are batched products. They are trained in chunks whose weights,
gradients and moments fit the processor's cache; each model stops early by itself and leaves the
wide model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from m3h_core.config import FitConfig
from m3h_core.data.cohort import Cohort
from m3h_core.data.tasks import TaskSpec
from m3h_core.files import fingerprint, read_tensors, write_tensors
from m3h_core.model.layout import Layout
from m3h_core.training.fit import finish
from m3h_core.training.fitted import FittedModel
from m3h_core.training.prepared import Prepared
from m3h_core.training.trainer import Trainer
from m3h_core.workers import bound_to_this_process

OnProgress = Callable[[int, int], None]
OnStop = Callable[[int], None]
Job = tuple[Sequence[TaskSpec], FitConfig | None]

# Weights, gradients and two moments of the models that are trained together: what a last-level
# cache holds.
CHUNK_BYTES_CPU = 48_000_000
CHUNK_BYTES_GPU = 4_000_000_000
_CPU = torch.device("cpu")


def fit_many(
    cohort: Cohort,
    jobs: Sequence[Job],
    on_progress: OnProgress | None = None,
    resume: str | Path | None = None,
    workers: int = 1,
    devices: Sequence[str] = (),
) -> list[FittedModel]:
    """Train a model for each (tasks, configuration), in the order given; the same models as
    :func:`fit` one by one.

    ``on_progress`` receives (models done, models in all). With ``resume``, a folder, finished
    chunks are kept there: the same call after a kill loses at most the chunks it was in. With
    ``workers``, on a CPU, so many chunks are trained at once, each by a process and a thread of its
    own. On GPUs a process each trains chunks in turn: on all that are visible where the
    configurations name none, else on these ``devices`` ("cuda:0", "cuda:2").
    """
    union: dict[str, TaskSpec] = {}
    for tasks, _ in jobs:
        for task in tasks:
            if union.setdefault(task.name, task) != task:
                raise ValueError(f"two different tasks are called {task.name!r}")
    trained = dict(
        Bank(cohort, list(union.values()), workers, devices).train(jobs, on_progress, resume)
    )
    return [trained[i] for i in range(len(jobs))]


class Bank:
    """Trains many models on one cohort, for subsets of some tasks; what they read of it is prepared
    once.
    """

    def __init__(
        self,
        cohort: Cohort,
        tasks: Sequence[TaskSpec],
        workers: int = 1,
        devices: Sequence[str] = (),
    ) -> None:
        self.cohort = cohort
        self.tasks = list(tasks)
        self.workers = workers
        self.devices = devices
        self._prepared: dict[tuple[str, float, bool, int, int], Prepared] = {}

    def prepared(self, config: FitConfig) -> Prepared:
        """The cohort made ready for all tasks, as a configuration wants it."""
        kind = (
            config.precision,
            config.balance,
            config.linear_path,
            config.cluster_components,
            config.max_clusters,
        )
        if kind not in self._prepared:
            self._prepared[kind] = Prepared.of(self.cohort, self.tasks, config)
        return self._prepared[kind]

    def train(
        self,
        jobs: Sequence[Job],
        on_progress: OnProgress | None = None,
        resume: str | Path | None = None,
    ) -> Iterator[tuple[int, FittedModel]]:
        """The models of :func:`fit_many` as (place among the jobs, model), chunk by chunk as they
        are trained.

        For whoever is done with a model before the next chunk: a thousand of them may not fit into
        memory.
        """
        plan = [(tuple(tasks), config or FitConfig()) for tasks, config in jobs]
        places = self.places([config for _, config in plan])
        # On a CPU the chunks are the same for any number of workers, and so are the models, to the
        # last bit.
        shares = len({place for place in places if place != _CPU})
        chunks = _chunks(plan, self.cohort.widths, max(1, shares))
        train = self._side_by_side if min(len(places), len(chunks)) > 1 else self._one_by_one
        done = 0

        def stopped(count: int) -> None:
            nonlocal done
            done += count
            if on_progress:
                on_progress(done, len(plan))

        def prepare(at: int) -> _Chunk:
            jobs = [plan[i] for i in chunks[at]]
            config = jobs[0][1]
            tasks = [tasks for tasks, _ in jobs]
            return _Chunk(self.prepared(config), tasks, config, resume, places[at % len(places)])

        works = map(prepare, range(len(chunks)))
        for at, models in train(works, stopped, len(places)):
            yield from zip(chunks[at], models, strict=True)

    def places(self, configs: Sequence[FitConfig]) -> list[torch.device | None]:
        """Where chunks are trained, in turn, a process each; None: where their configuration says,
        by this process.
        """
        if self.devices:
            return [torch.device(name) for name in self.devices]
        wanted = {config.torch_device for config in configs}
        if wanted == {torch.device("cuda")}:
            return [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
        return [_CPU] * self.workers if wanted == {_CPU} else [None]

    def _one_by_one(
        self, works: Iterable[_Chunk], stopped: OnStop, _: int
    ) -> Iterator[tuple[int, list[FittedModel]]]:
        for at, work in enumerate(works):
            yield at, work.train(stopped)

    def _side_by_side(
        self, works: Iterable[_Chunk], stopped: OnStop, workers: int
    ) -> Iterator[tuple[int, list[FittedModel]]]:
        from joblib import Parallel, delayed

        pool = Parallel(n_jobs=workers, return_as="generator_unordered", **bound_to_this_process())
        for at, models in pool(delayed(_train_apart)(at, work) for at, work in enumerate(works)):
            stopped(len(models))
            yield at, models


@dataclass(frozen=True)
class _Chunk:
    """Models of one configuration that are trained as one wide model; ``tasks`` are those of
    each.
    """

    prepared: Prepared
    tasks: list[tuple[TaskSpec, ...]]
    config: FitConfig
    resume: str | Path | None
    device: torch.device | None

    def train(self, stopped: OnStop) -> list[FittedModel]:
        """Train them, or read them where they were kept."""
        models = [self.prepared.new_model(tasks, self.config) for tasks in self.tasks]
        file = self._file()
        if file and file.exists():
            tensors, _ = read_tensors(file)
            for at, model in enumerate(models):
                state = {
                    key.partition("/")[2]: value
                    for key, value in tensors.items()
                    if key.startswith(f"{at}/")
                }
                model.load_state_dict(state)
            stopped(len(models))
        else:
            Trainer(self.prepared, models, on_stop=stopped, device=self.device).run()
            if file:
                states = [model.state_dict() for model in models]
                write_tensors(
                    file,
                    {f"{at}/{key}": v for at, s in enumerate(states) for key, v in s.items()},
                    {},
                )
        return finish(models, self.prepared, self.device)

    def _file(self) -> Path | None:
        if not self.resume:
            return None
        named = [_to_records(tasks) for tasks in self.tasks]
        name = fingerprint(self.prepared.fingerprint(), named, self.config.to_dict())
        return Path(self.resume) / f"chunk-{name}.safetensors"


def _to_records(tasks: Sequence[TaskSpec]) -> list[dict[str, Any]]:
    return [task.to_dict() for task in tasks]


def _train_apart(at: int, work: _Chunk) -> tuple[int, list[FittedModel]]:
    """In a worker: beside others a second thread would only stand in their way."""
    torch.set_num_threads(1)
    return at, work.train(lambda _: None)


def _chunks(
    plan: Sequence[tuple[Sequence[TaskSpec], FitConfig]], modalities: Mapping[str, int], shares: int
) -> list[list[int]]:
    """Indices of the models that are trained together: equal layout and configuration, as many as
    fit.

    Those of one layout are enough for so many ``shares``.
    """
    # A flag for each modality follows them all.
    n_inputs = sum(modalities.values()) + len(modalities)
    groups: dict[tuple[Layout, FitConfig, tuple[str, ...]], list[int]] = {}
    for i, (tasks, config) in enumerate(plan):
        layout = Layout.of(n_inputs, tasks, config, modalities)
        # Clusterings may differ in their number of clusters, which is not known yet.
        clusterings = tuple(task.name for task in tasks if task.problem == "clustering")
        groups.setdefault((layout, config, clusterings), []).append(i)
    chunks = []
    for (layout, config, _), members in groups.items():
        budget = CHUNK_BYTES_GPU if config.torch_device.type == "cuda" else CHUNK_BYTES_CPU
        size = min(
            max(1, budget // (16 * _weights(layout, config))), math.ceil(len(members) / shares)
        )
        chunks += [members[start : start + size] for start in range(0, len(members), size)]
    return chunks


def _weights(layout: Layout, config: FitConfig) -> int:
    """Number of weights of one model, nearly: its members share the first layer."""
    sizes = (*layout.hidden, layout.n_tasks * layout.width)
    return sizes[0] * layout.n_inputs + config.members * sum(a * b for a, b in pairwise(sizes))
