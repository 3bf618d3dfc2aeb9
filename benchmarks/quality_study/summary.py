"""The PhysioNet/CinC Challenge 2012, set A, as one row a patient: 4,000 stays in intensive care,
31 tasks.

One row a stay, one stay a patient. Inputs are what was known first: the 41 columns of age, gender,
height, kind of unit and the first value of each vital sign and laboratory value, with gaps. Tasks
are outcomes and the last values. Where a patient was measured once, the last value is the first:
tasks that are mostly such are left out. SOFA and SAPS-I are computed from the same vital signs, so
nearly determined by the inputs: they are reported apart.

Shapes: N rows of the table.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from m3h_core import Cohort, TaskSpec
from m3h_core.data.cohort import TEST, TRAIN, VALID
from m3h_core.embedders.tabular import TabularEmbedder
from quality_study.data import Data, shuffled
from quality_study.leakage import find_leaks

BINARY = ("death", "los_over_7", "death_30d", "ventilated")
# The last value of each of these is a task.
MEASURED = (
    "GCS",
    "Glucose",
    "HR",
    "MAP",
    "NIDiasABP",
    "NISysABP",
    "Temp",
    "ALT",
    "BUN",
    "Bilirubin",
    "Creatinine",
    "HCO3",
    "HCT",
    "K",
    "Lactate",
    "Mg",
    "Na",
    "PaCO2",
    "PaO2",
    "Platelets",
    "SysABP",
    "WBC",
    "pH",
)
REGRESSION = ("log_los", "saps", "sofa", "log_urine", *MEASURED)
TASKS = tuple(
    TaskSpec(name, "binary" if name in BINARY else "regression") for name in (*BINARY, *REGRESSION)
)

# Nearly determined by the inputs.
DETERMINED = ("saps", "sofa")

# Tasks of one group say nearly the same, so that one's labels would give away another's: the same
# event or the same number cut otherwise; one score a part of the other; one formula
# (Henderson-Hasselbalch) or one blood sample; one pressure measured twice; one organ's clearance. A
# ventilated patient can't speak, which costs points of the GCS, and urine was summed over the
# records of the ventilated alone. Every pair whose labels have a rank correlation beyond .5 lies in
# a group; so do pairs below it that belong together by definition.
NEAR_TWINS = (
    {"death", "death_30d"},
    {"los_over_7", "log_los"},
    {"saps", "sofa", "GCS"},
    {"GCS", "ventilated", "log_urine"},
    {"MAP", "NIDiasABP", "NISysABP", "SysABP"},
    {"BUN", "Creatinine"},
    {"HCO3", "PaCO2", "PaO2", "pH"},
)

# Tried with few labels.
SCARCE_TASKS = (
    "death",
    "los_over_7",
    "ventilated",
    "sofa",
    "log_urine",
    "GCS",
    "HCO3",
    "PaCO2",
    "Creatinine",
    "HR",
    "NISysABP",
    "Platelets",
)

_STATIC = ["Age", "Gender", "Height", "CCU", "CSRU", "SICU"]
_SHARES = (0.60, 0.15)
_CLIP = (0.5, 99.5)


@dataclass(frozen=True)
class Table:
    """Inputs {column: [N]} and labels {task: [N]} as they were recorded; NaN where missing or not
    labelled.
    """

    inputs: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    @classmethod
    def read(cls, file: str | Path) -> Table:
        """Read the CSV file (it may be compressed)."""
        frame = pd.read_csv(file)
        columns = [*_STATIC, *(name for name in frame if str(name).endswith("_first"))]
        return cls(
            {str(name): frame[name].to_numpy(np.float64) for name in columns}, _labels(frame)
        )


def _labels(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """Labels by task; -1 stands for missing in the file, and for "survived" in the days of
    survival.
    """
    stay = frame["Length_of_stay"].where(frame["Length_of_stay"] > 0)
    labels = {
        "death": frame["In-hospital_death"],
        "los_over_7": (stay > 7).astype(float).where(stay.notna()),
        "death_30d": frame["Survival"].between(0, 30),
        "ventilated": frame["MechVentLast8Hour"].fillna(0) > 0,
        "log_los": np.log1p(stay),
        "saps": frame["SAPS-I"].where(frame["SAPS-I"] >= 0),
        "sofa": frame["SOFA"].where(frame["SOFA"] >= 0),
        "log_urine": np.log1p(frame["UrineOutputSum"]),
        **{name: frame[f"{name}_last"] for name in MEASURED},
    }
    return {name: values.to_numpy(np.float64) for name, values in labels.items()}


def cohort_of(table: Table, seed: int) -> Cohort:
    """The cohort with raw inputs (NaN where missing), in the seed's own 60/15/25 split of shuffled
    rows.

    Regression targets are clipped at percentiles of the whole training split, in every setting:
    they stay the same targets however few of the rows are learnt from.
    """
    n = len(table)
    order = shuffled(n, seed)
    n_train, n_valid = (round(share * n) for share in _SHARES)
    split = np.full(n, TEST)
    split[order[:n_train]] = TRAIN
    split[order[n_train : n_train + n_valid]] = VALID
    labels = dict(table.labels)
    for name in REGRESSION:
        labels[name] = np.clip(labels[name], *np.nanpercentile(labels[name][split == TRAIN], _CLIP))
    rows = [str(i) for i in range(n)]
    return Cohort(
        sample_ids=rows,
        split=split,
        embeddings={"tabular": np.column_stack(list(table.inputs.values())).astype(np.float32)},
        # Raw inputs have gaps, which a present row must not: only trees read them, by another way.
        present={"tabular": np.zeros(n, dtype=bool)},
        labels=labels,
        labelled={name: np.isfinite(values) for name, values in labels.items()},
        subject_ids=rows,
    )


def embedded(cohort: Cohort, table: Table) -> Cohort:
    """The cohort whose inputs are embedded as a user's would be, fitted on its training rows
    alone.
    """
    train = cohort.split == TRAIN
    embedder = TabularEmbedder().fit({name: values[train] for name, values in table.inputs.items()})
    vectors, present = embedder.transform(table.inputs)
    return replace(cohort, embeddings={"tabular": vectors}, present={"tabular": present})


def near_twins(task: str) -> set[str]:
    """The tasks whose labels would give this one's away.

    >>> sorted(near_twins("sofa")), near_twins("K")
    (['GCS', 'saps'], set())
    """
    return {other for group in NEAR_TWINS if task in group for other in group} - {task}


class SummaryData(Data):
    """The table of patients: the tasks that are no input, and a split a seed."""

    declared = TASKS

    def __init__(self, file: str | Path, only: Collection[str] = ()) -> None:
        super().__init__(only)
        self._table = Table.read(file)

    @cached_property
    def left_out(self) -> dict[str, str]:
        return find_leaks(TASKS, self._table.labels, self._table.inputs)

    @property
    def scarce_tasks(self) -> tuple[str, ...]:
        return SCARCE_TASKS

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        undetermined = tuple(name for name in REGRESSION if name not in DETERMINED)
        return {**super().groups, "R2 without SOFA, SAPS-I": undetermined}

    def cohort(self, seed: int) -> Cohort:
        return cohort_of(self._table, seed)

    def embedded(self, cohort: Cohort) -> Cohort:
        return embedded(cohort, self._table)

    def near_twins(self, task: str) -> set[str]:
        return near_twins(task)
