"""``fit_many``: many models trained as one wide model.

Models of equal layout and configuration read the same batches: one matrix product serves all their first layers, and
their later layers are batched products. They are trained in chunks whose weights, gradients and moments fit the
processor's cache; each model stops early by itself and leaves the wide model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from m3h_core.checkpoint import fingerprint, read_tensors, write_tensors
from m3h_core.cohort import Cohort
from m3h_core.data import TrainingData
from m3h_core.model import FitConfig, Layout
from m3h_core.tasks import TaskSpec
from m3h_core.training import FittedModel, Trainer, finished, trained_alone

Job = tuple[Sequence[TaskSpec], FitConfig | None]

# Weights, gradients and two moments of the models that are trained together: what a last-level cache holds.
CHUNK_BYTES_CPU = 48_000_000
CHUNK_BYTES_GPU = 4_000_000_000


def fit_many(
    cohort: Cohort,
    jobs: Sequence[Job],
    on_progress: Callable[[int, int], None] | None = None,
    resume: str | Path | None = None,
) -> list[FittedModel]:
    """Train a model for each (tasks, configuration), in the order given; the same models as :func:`fit` one by one.

    ``on_progress`` receives (models done, models in all). With ``resume``, a folder, finished chunks are kept there:
    the same call after a kill loses at most the chunk it was in.
    """
    union: dict[str, TaskSpec] = {}
    for tasks, _ in jobs:
        for task in tasks:
            if union.setdefault(task.name, task) != task:
                raise ValueError(f"two different tasks are called {task.name!r}")
    trained = dict(Bank(cohort, list(union.values())).train(jobs, on_progress, resume))
    return [trained[i] for i in range(len(jobs))]


class Bank:
    """Trains many models on one cohort, for subsets of some tasks; what they read of it is prepared once."""

    def __init__(self, cohort: Cohort, tasks: Sequence[TaskSpec]) -> None:
        self.cohort, self.tasks = cohort, list(tasks)
        self._prepared: dict[tuple[str, float, bool, int, int], TrainingData] = {}

    def data(self, config: FitConfig) -> TrainingData:
        """The cohort made ready for all tasks, as a configuration wants it."""
        kind = (config.precision, config.balance, config.linear_path, config.cluster_components, config.max_clusters)
        if kind not in self._prepared:
            self._prepared[kind] = TrainingData.of(self.cohort, self.tasks, config)
        return self._prepared[kind]

    def train(
        self,
        jobs: Sequence[Job],
        on_progress: Callable[[int, int], None] | None = None,
        resume: str | Path | None = None,
    ) -> Iterator[tuple[int, FittedModel]]:
        """The models of :func:`fit_many` as (place among the jobs, model), chunk by chunk as they are trained.

        For whoever is done with a model before the next chunk: a thousand of them may not fit into memory.
        """
        plan = [(tuple(tasks), config or FitConfig()) for tasks, config in jobs]
        done = 0

        def stopped(count: int) -> None:
            nonlocal done
            done += count
            if on_progress:
                on_progress(done, len(plan))

        for chunk in _chunks(plan, sum(self.cohort.widths.values()) + len(self.cohort.widths)):
            config = plan[chunk[0]][1]
            data = self.data(config)
            models = [data.new_model(tasks, config) for tasks, config in (plan[i] for i in chunk)]
            file = None
            if resume:
                named = [[t.to_dict() for t in plan[i][0]] for i in chunk]
                file = Path(resume) / f"chunk-{fingerprint(data.fingerprint(), named, config.to_dict())}.safetensors"
            if file and file.exists():
                tensors, _ = read_tensors(file)
                for at, model in enumerate(models):
                    mine = {key.partition("/")[2]: value for key, value in tensors.items() if key.startswith(f"{at}/")}
                    model.load_state_dict(mine)
                stopped(len(chunk))
            else:
                Trainer(data, models, on_stop=stopped).run()
                if file:
                    states = [model.state_dict() for model in models]
                    write_tensors(file, {f"{at}/{key}": v for at, s in enumerate(states) for key, v in s.items()}, {})
            for i, model in zip(chunk, models, strict=True):
                yield i, finished(model, data)


def _chunks(plan: Sequence[tuple[Sequence[TaskSpec], FitConfig]], n_inputs: int) -> list[list[int]]:
    """Indices of the models that are trained together: equal layout and configuration, as many as fit."""
    groups: dict[tuple[Layout, FitConfig, int], list[int]] = {}
    for i, (tasks, config) in enumerate(plan):
        layout = Layout.of(n_inputs, tasks, config)
        alone = i if trained_alone(layout, config) else -1
        groups.setdefault((layout, config, alone), []).append(i)
    chunks = []
    for (layout, config, _), members in groups.items():
        budget = CHUNK_BYTES_GPU if config.torch_device.type == "cuda" else CHUNK_BYTES_CPU
        size = max(1, budget // (16 * _weights(layout, config)))
        chunks += [members[start : start + size] for start in range(0, len(members), size)]
    return chunks


def _weights(layout: Layout, config: FitConfig) -> int:
    """Number of weights of one model, nearly: its members share the first layer."""
    sizes = (*layout.hidden, layout.n_tasks * layout.width)
    return sizes[0] * layout.n_inputs + config.members * sum(a * b for a, b in pairwise(sizes))
