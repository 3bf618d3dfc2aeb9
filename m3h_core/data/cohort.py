"""The input space: samples, their embeddings by modality, and the labels that are known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

TRAIN = 0
VALID = 1
CALIBRATION = 2
TEST = 3
SPLITS = {"train": TRAIN, "valid": VALID, "calibration": CALIBRATION, "test": TEST}

# The modality that has two forms: statistics, and the series step by step.
TIMESERIES = "timeseries"
SERIES = "series"

_FORMAT = 1


@dataclass(frozen=True)
class Cohort:
    """N samples as arrays.

    Shapes: ``split`` int8 [N] (0 train, 1 valid, 2 calibration, 3 test); ``embeddings`` {modality:
    float32 [N, F_m]}; ``present`` {modality: bool [N]}; ``labels`` {task: float [N]} (for
    multiclass the index of the class); ``labelled`` {task: bool [N]}; ``subject_ids`` strings [N];
    ``groups`` {attribute: strings [N]}, for audits only. A row that is not present or not labelled
    may hold anything: it is never read.

    ``fold`` int8 [N], from 0 to K - 1, where the cohort is cross-fitted (see
    :mod:`m3h_core.data.folds`): K models are trained, each without the samples of its fold, and
    every sample is judged by the model that did not see its subject. Without it one model is
    trained, and the test split is judged.

    ``series`` float32 [N, W] is the modality ``timeseries`` step by step, for a network that reads
    it so (see :meth:`with_series`); everything else reads the embedding.

    >>> cohort = Cohort(
    ...     sample_ids=["a", "b"], split=np.array([0, 3]),
    ...     embeddings={"tabular": np.zeros((2, 4))}, present={"tabular": np.array([True, False])},
    ...     labels={"death": np.array([0.0, np.nan])}, labelled={"death": np.array([True, False])})
    >>> len(cohort), cohort.widths
    (2, {'tabular': 4})
    """

    sample_ids: Sequence[str]
    split: np.ndarray
    embeddings: Mapping[str, np.ndarray]
    present: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]
    labelled: Mapping[str, np.ndarray]
    subject_ids: Sequence[str] | None = None
    groups: Mapping[str, Sequence[str]] | None = None
    fold: np.ndarray | None = None
    series: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.sample_ids)
        object.__setattr__(self, "split", np.asarray(self.split, dtype=np.int8))
        _check_length("split", self.split, n)
        if self.split.size and not np.isin(self.split, list(SPLITS.values())).all():
            raise ValueError("split must be 0 (train), 1 (valid), 2 (calibration) or 3 (test)")
        for name, table in (("embeddings", self.embeddings), ("labels", self.labels)):
            for key, values in table.items():
                _check_length(f"{name}[{key!r}]", values, n)
        for name, mask, of in (
            ("present", self.present, self.embeddings),
            ("labelled", self.labelled, self.labels),
        ):
            if set(mask) != set(of):
                raise ValueError(f"{name} has the keys {sorted(mask)}, expected {sorted(of)}")
            for key, values in mask.items():
                _check_length(f"{name}[{key!r}]", values, n)
                if np.asarray(values).dtype != np.bool_:
                    raise ValueError(
                        f"{name}[{key!r}] must be bool, not {np.asarray(values).dtype}"
                    )
        for key, values in self.embeddings.items():
            _check_matrix(f"embeddings[{key!r}]", values, self.present[key])
        for key, values in self.labels.items():
            if not np.isfinite(np.asarray(values)[self.labelled[key]]).all():
                raise ValueError(
                    f"labels[{key!r}] has values that are not finite in rows that are labelled"
                )
        if self.subject_ids is not None:
            _check_length("subject_ids", self.subject_ids, n)
        for key, values in (self.groups or {}).items():
            _check_length(f"groups[{key!r}]", values, n)
        if self.fold is not None:
            _check_length("fold", self.fold, n)
            if n and np.min(self.fold) < 0:
                raise ValueError("fold must be 0 or more")
        if self.series is not None:
            _check_length("series", self.series, n)
            _check_matrix("series", self.series, np.ones(n, dtype=bool))

    def __len__(self) -> int:
        return len(self.sample_ids)

    @property
    def subjects(self) -> np.ndarray:
        """The subject of each sample [N]; without ``subject_ids`` each sample is one of its own."""
        return np.asarray(self.sample_ids if self.subject_ids is None else self.subject_ids)

    @property
    def widths(self) -> dict[str, int]:
        """Width of each modality's embedding."""
        return {name: int(values.shape[1]) for name, values in self.embeddings.items()}

    def rows(self, split: int) -> np.ndarray:
        """Row numbers [n] of one split; of the test split all where the cohort is cross-fitted,
        since each is predicted by a model that did not see its subject.
        """
        if split == TEST and self.fold is not None:
            return np.arange(len(self))
        return np.flatnonzero(self.split == split)

    @property
    def n_folds(self) -> int:
        """How many models are trained; 1 where the cohort is not cross-fitted."""
        if self.fold is None:
            return 1
        return int(np.max(self.fold, initial=0)) + 1

    def rows_of_fold(self, fold: int) -> np.ndarray:
        """Row numbers [n] that are judged by the fold's model: without folds the test split."""
        return self.rows(TEST) if self.fold is None else np.flatnonzero(self.fold == fold)

    def for_fold(self, fold: int) -> Cohort:
        """The cohort as the fold's model sees it: its fold is the test split; of the others the
        validation split stays, and all else is trained on. Without folds it is itself.
        """
        if self.fold is None:
            return self
        split = np.where(self.split == VALID, VALID, TRAIN)
        return replace(self, split=np.where(self.fold == fold, TEST, split), fold=None)

    def with_series(self) -> Cohort:
        """The cohort whose modality ``series`` takes the place of ``timeseries``. Raises ValueError
        where it has none.

        >>> cohort = Cohort(["a"], np.array([0]), {"timeseries": np.zeros((1, 2))},
        ...     {"timeseries": np.array([True])}, {}, {}, series=np.zeros((1, 6)))
        >>> cohort.widths, cohort.with_series().widths
        ({'timeseries': 2}, {'series': 6})
        """
        if self.series is None or TIMESERIES not in self.embeddings:
            raise ValueError(f"the cohort has no series, or not the modality {TIMESERIES!r}")
        embeddings = {**self.embeddings, TIMESERIES: self.series}
        return replace(
            self,
            embeddings={_rename(name): values for name, values in embeddings.items()},
            present={_rename(name): mask for name, mask in self.present.items()},
            series=None,
        )

    def take(self, rows: np.ndarray) -> Cohort:
        """The samples ``rows`` [n] alone, in that order."""

        def some(values: Sequence[str]) -> list[str]:
            return [values[row] for row in rows]

        def of_each(table: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: np.asarray(values)[rows] for name, values in table.items()}

        return Cohort(
            sample_ids=some(self.sample_ids),
            split=self.split[rows],
            embeddings=of_each(self.embeddings),
            present=of_each(self.present),
            labels=of_each(self.labels),
            labelled=of_each(self.labelled),
            subject_ids=None if self.subject_ids is None else some(self.subject_ids),
            groups={name: some(values) for name, values in (self.groups or {}).items()} or None,
            fold=None if self.fold is None else self.fold[rows],
            series=None if self.series is None else self.series[rows],
        )

    def save(self, folder: str | Path) -> None:
        """Write ``cohort.safetensors`` and ``cohort.json`` into an existing or new folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {"split": self.split}
        if self.fold is not None:
            arrays["fold"] = self.fold
        if self.series is not None:
            arrays[SERIES] = np.ascontiguousarray(self.series, dtype=np.float32)
        for name in self.embeddings:
            arrays[f"embeddings/{name}"] = np.ascontiguousarray(
                self.embeddings[name], dtype=np.float32
            )
            arrays[f"present/{name}"] = np.ascontiguousarray(self.present[name])
        for name in self.labels:
            arrays[f"labels/{name}"] = np.ascontiguousarray(self.labels[name], dtype=np.float64)
            arrays[f"labelled/{name}"] = np.ascontiguousarray(self.labelled[name])
        save_file(arrays, folder / "cohort.safetensors")
        about = {
            "format": _FORMAT,
            "modalities": list(self.embeddings),
            "tasks": list(self.labels),
            "sample_ids": list(map(str, self.sample_ids)),
            "subject_ids": None if self.subject_ids is None else list(map(str, self.subject_ids)),
            "groups": {
                name: list(map(str, values)) for name, values in (self.groups or {}).items()
            },
        }
        (folder / "cohort.json").write_text(json.dumps(about))

    @classmethod
    def load(cls, folder: str | Path) -> Cohort:
        """Read what :meth:`save` wrote; the arrays are memory-mapped by safetensors."""
        folder = Path(folder)
        about = json.loads((folder / "cohort.json").read_text())
        if about.get("format") != _FORMAT:
            raise ValueError(
                f"{folder}: cohort format {about.get('format')!r}, this version reads {_FORMAT}"
            )
        with safe_open(folder / "cohort.safetensors", framework="numpy") as arrays:
            names = set(arrays.keys())
            return cls(
                sample_ids=about["sample_ids"],
                split=arrays.get_tensor("split"),
                embeddings={m: arrays.get_tensor(f"embeddings/{m}") for m in about["modalities"]},
                present={m: arrays.get_tensor(f"present/{m}") for m in about["modalities"]},
                labels={t: arrays.get_tensor(f"labels/{t}") for t in about["tasks"]},
                labelled={t: arrays.get_tensor(f"labelled/{t}") for t in about["tasks"]},
                subject_ids=about["subject_ids"],
                groups=about["groups"] or None,
                fold=arrays.get_tensor("fold") if "fold" in names else None,
                series=arrays.get_tensor(SERIES) if SERIES in names else None,
            )


def _check_length(name: str, values: Sequence | np.ndarray, n: int) -> None:
    if len(values) != n:
        raise ValueError(f"{name} has {len(values)} rows, expected {n}")


def _check_matrix(name: str, values: np.ndarray, is_present: np.ndarray) -> None:
    if values.ndim != 2:
        raise ValueError(f"{name} must be [N, F], not of shape {values.shape}")
    if not np.isfinite(values[is_present]).all():
        raise ValueError(f"{name} has values that are not finite in rows that are present")


def _rename(modality: str) -> str:
    return SERIES if modality == TIMESERIES else modality


def proper_subsets(cohort: Cohort) -> list[tuple[str, ...]]:
    """The subsets of the modalities that some sample has, the largest first, without the whole and
    the empty one.

    >>> vectors = {"tabular": np.zeros((2, 1)), "vision": np.zeros((2, 1))}
    >>> there = dict.fromkeys(vectors, np.ones(2, dtype=bool))
    >>> proper_subsets(Cohort(["a", "b"], np.zeros(2, dtype=int), vectors, there, {}, {}))
    [('tabular',), ('vision',)]
    """
    names = [name for name, present in cohort.present.items() if np.asarray(present).any()]
    return [subset for size in range(len(names) - 1, 0, -1) for subset in combinations(names, size)]
