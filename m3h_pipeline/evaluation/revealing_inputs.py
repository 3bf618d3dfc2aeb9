"""Inputs that alone predict a task: a label that came in among the inputs, most likely.

Shapes: N training rows, n of them labelled, F inputs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m3h_core import Cohort, TaskSpec
from m3h_core.data.cohort import TRAIN
from m3h_core.embedders import load_embedder

# An input that orders patients so well alone gives the label away. Measurements of an illness that
# is defined by them come to .95.
_MOST = 0.98
_ERROR = 0.01
_FEWEST = 30
# Rows that are looked at: with more the same inputs are found.
_ROWS = 4000
# Named in a message.
_LISTED = 10


@dataclass(frozen=True)
class RevealingInput:
    """An input that predicts a class of a task by itself; ``low``: the lower bound of its AUROC."""

    task: str
    name: str
    auroc: float
    low: float

    @property
    def entry(self) -> str:
        """How ``accepted`` under [validation] in m3h.toml names it."""
        return f"cohort revealing_inputs {self.task} {self.name}"


def read_input_names(embedders: Mapping[str, Path], widths: Mapping[str, int]) -> dict[str, str]:
    """Modality/column -> the name of the input, of the modalities whose columns have names.

    ``embedders``: modality -> the folder of its embedder; ``widths``: its columns in the cohort.
    """
    names = {}
    for modality, folder in embedders.items():
        of_columns = getattr(load_embedder(folder), "feature_names", None)
        if of_columns is not None and len(of_columns) == widths[modality]:
            names |= {f"{modality}/{i}": name for i, name in enumerate(of_columns)}
    return names


def find_revealing_inputs(
    cohort: Cohort, tasks: Sequence[TaskSpec], names: Mapping[str, str]
) -> list[RevealingInput]:
    """The inputs whose AUROC for a class of a task lies above .98 with its lower 99% bound,
    corrected for the number of inputs; looked at on training rows, of classes with 30 rows or more.

    ``names``: see `read_input_names`; modalities without names are left out.
    """
    modalities = [name for name in cohort.embeddings if f"{name}/0" in names]
    if not modalities:
        return []
    rows = np.flatnonzero(cohort.split == TRAIN)
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _ROWS)).astype(int)]
    x = np.hstack([cohort.embeddings[name][rows] for name in modalities])
    columns: list[str] = []
    for modality in modalities:
        width = cohort.embeddings[modality].shape[1]
        columns += [names[f"{modality}/{i}"] for i in range(width)]
    revealing: dict[tuple[str, str], RevealingInput] = {}
    # Ranks are among the labelled rows, which many tasks share.
    for is_labelled, classes in _group_classes(cohort, tasks, rows):
        ranks = _rank(x[is_labelled])
        for task, is_class in classes:
            auroc = _compute_aurocs(ranks, is_class)
            low = _bound(auroc, int(is_class.sum()), len(is_class))
            for i in np.flatnonzero(low > _MOST):
                one = RevealingInput(task, columns[i], float(auroc[i]), float(low[i]))
                revealing.setdefault((task, columns[i]), one)
    return sorted(revealing.values(), key=lambda one: (one.task, -one.low, one.name))


def describe_revealing_inputs(
    inputs: Sequence[RevealingInput], accepted: Collection[str]
) -> tuple[bool, str]:
    """Whether a run may go on, and why, in words."""
    left = [one for one in inputs if one.entry not in accepted]
    if not left:
        n_accepted = len(inputs)
        words = f" ({n_accepted} accepted in m3h.toml)" if n_accepted else ""
        return True, f"No input predicts a task by itself{words}."
    first = left[0]
    listed = "; ".join(f"{one.task}: {one.name}" for one in left[:_LISTED])
    more = f" and {len(left) - _LISTED} more" if len(left) > _LISTED else ""
    return False, (
        f"{len(left)} inputs predict a task by themselves, with an AUROC above {_MOST} on the "
        f"training patients: {listed}{more}. Most likely the label is among the inputs. Take the "
        "input out, give it the time when it was really known, or, where this is right, add "
        f'"{first.entry}" to accepted under [validation] in m3h.toml.'
    )


def _group_classes(
    cohort: Cohort, tasks: Sequence[TaskSpec], rows: np.ndarray
) -> list[tuple[np.ndarray, list[tuple[str, np.ndarray]]]]:
    """The classes that can be judged, by the rows that are labelled [N]: task, and which of these
    are of the class [n].
    """
    classes: dict[bytes, list[tuple[str, np.ndarray]]] = defaultdict(list)
    for task in tasks:
        if task.problem not in ("binary", "multiclass"):
            continue
        is_labelled = cohort.labelled[task.name][rows]
        labels = cohort.labels[task.name][rows][is_labelled]
        for value in [1] if task.problem == "binary" else range(task.n_outputs):
            is_class = labels == value
            if min(is_class.sum(), len(is_class) - is_class.sum()) >= _FEWEST:
                classes[is_labelled.tobytes()].append((task.name, is_class))
    return [(np.frombuffer(mask, dtype=bool), of_mask) for mask, of_mask in classes.items()]


def _rank(x: np.ndarray) -> np.ndarray:
    """Ranks of each input [n, F] among the rows, ties sharing theirs."""
    from scipy.stats import rankdata

    return rankdata(x, axis=0)


def _compute_aurocs(ranks: np.ndarray, is_class: np.ndarray) -> np.ndarray:
    """AUROC of each input [F], in whichever direction it is better."""
    n_class = is_class.sum()
    others = len(is_class) - n_class
    auroc = (is_class @ ranks - n_class * (n_class + 1) / 2) / (n_class * others)
    return np.maximum(auroc, 1 - auroc)


def _bound(auroc: np.ndarray, n_class: int, n: int) -> np.ndarray:
    """The lower bound of each AUROC [F], by the variance of Hanley and McNeil (1982)."""
    from scipy.stats import norm

    others = n - n_class
    of_class = auroc / (2 - auroc) - auroc**2
    of_others = 2 * auroc**2 / (1 + auroc) - auroc**2
    variance = (auroc * (1 - auroc) + (n_class - 1) * of_class + (others - 1) * of_others) / (
        n_class * others
    )
    return auroc - norm.ppf(1 - _ERROR / len(auroc)) * np.sqrt(np.maximum(variance, 0))
