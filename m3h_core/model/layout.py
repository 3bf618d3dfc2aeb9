"""The sizes of a network.

Shapes: O outputs of all tasks side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from m3h_core.config import FitConfig
from m3h_core.data.cohort import SERIES
from m3h_core.data.tasks import TaskSpec


@dataclass(frozen=True)
class SeriesLayout:
    """Where a series lies among the inputs: its ``steps``, one after the other, of as many
    ``channels`` each, from the input ``start`` on.
    """

    start: int
    steps: int
    channels: int

    @property
    def width(self) -> int:
        """Its inputs."""
        return self.steps * self.channels


@dataclass(frozen=True)
class Layout:
    """The sizes of one network; networks of equal layout can run side by side."""

    n_inputs: int
    hidden: tuple[int, ...]
    width: int
    outputs: tuple[int, ...]
    clustering: tuple[int, ...]
    series: SeriesLayout | None = None

    @classmethod
    def of(
        cls,
        n_inputs: int,
        tasks: Sequence[TaskSpec],
        config: FitConfig,
        modalities: Mapping[str, int] | None = None,
    ) -> Layout:
        """The layout of a network for these tasks.

        A clustering task's head reconstructs leading components of the inputs (what shapes its
        embedding).
        """
        outputs = tuple(
            min(config.cluster_components, n_inputs)
            if task.problem == "clustering"
            else task.n_outputs
            for task in tasks
        )
        clustering = tuple(i for i, task in enumerate(tasks) if task.problem == "clustering")
        series = _find_series(modalities or {}, config.steps) if config.steps else None
        return cls(n_inputs, config.hidden, config.width, outputs, clustering, series)

    @property
    def n_tasks(self) -> int:
        return len(self.outputs)

    @property
    def n_outputs(self) -> int:
        return sum(self.outputs)

    @property
    def slices(self) -> list[slice]:
        """Where each task's outputs lie among the O."""
        ends = accumulate(self.outputs)
        return [slice(end - size, end) for end, size in zip(ends, self.outputs, strict=True)]

    @property
    def owners(self) -> list[int]:
        """The task of each of the O outputs."""
        return [task for task, size in enumerate(self.outputs) for _ in range(size)]

    @property
    def first(self) -> int:
        """Width of the first layer."""
        return self.hidden[0] if self.hidden else self.n_tasks * self.width


def _find_series(modalities: Mapping[str, int], steps: int) -> SeriesLayout:
    """Raises ValueError where there is no series, or not one of so many steps."""
    if SERIES not in modalities:
        raise ValueError(
            f"a recurrent trunk reads the modality {SERIES!r}, which is not among "
            f"{sorted(modalities)}"
        )
    width = modalities[SERIES]
    if width % steps:
        raise ValueError(f"{SERIES} has {width} columns, which are not {steps} equal steps")
    names = list(modalities)
    start = sum(modalities[name] for name in names[: names.index(SERIES)])
    return SeriesLayout(start, steps, width // steps)
