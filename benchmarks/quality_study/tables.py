"""A folder of the ``tables`` format through the pipeline's own extraction, contracts, inputs and
embedders.

What is computed from patients lies in the cache folder: tables and inputs once, embeddings once a
set of training rows. Delete the folder when it is no longer needed: it holds their data.

Shapes: N samples.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors.numpy import load_file
from scipy.stats import spearmanr

from m3h_core import Cohort, TaskSpec
from m3h_core.data.cohort import CALIBRATION, SERIES, TEST, TIMESERIES, TRAIN
from m3h_core.files import fingerprint
from m3h_core.weighted_metrics import weighted_auroc
from m3h_pipeline.config import EmbeddingConfig, open_source
from m3h_pipeline.contracts.model import TABLES
from m3h_pipeline.contracts.split import split_rows
from m3h_pipeline.evaluation.scores import MIN_SAMPLES_TO_SCORE
from m3h_pipeline.features.as_of import write_inputs
from m3h_pipeline.features.assemble import write_cohort
from m3h_pipeline.features.items import MODALITIES, is_given, modality_items
from m3h_pipeline.jobs.embed import absent_embedder, embed, embed_nothing
from m3h_pipeline.jobs.encoders import encoder_options
from m3h_pipeline.sources import Settings, extract
from m3h_pipeline.sources.base import SIGNALS
from m3h_pipeline.sources.splits import FRACTIONS
from m3h_pipeline.sources.tasks_file import read_tasks
from m3h_pipeline.state.layout import valid_folder
from m3h_pipeline.state.steps import code_version
from quality_study.data import Data, shuffled
from quality_study.leakage import find_leaks

_CODE = (
    "m3h_core.data.cohort",
    "m3h_core.embedders",
    "m3h_pipeline.contracts",
    "m3h_pipeline.features",
    "m3h_pipeline.jobs.embed",
    "m3h_pipeline.jobs.encoders",
    "m3h_pipeline.sources",
)
# Labels that hang together more than this give each other away: numbers by their rank correlation,
# a class by the AUROC with which the other label tells it.
TWIN_CORRELATION = 0.5
TWIN_AUROC = 0.85
# Tasks that are tried with few labels: so many, of which the rarer class has this share.
_SCARCE_AT_MOST = 14
_SCARCE_SHARE = 0.1
_FEWEST_OF_A_CLASS = 10


class TablesData(Data):
    """The patients of a folder, split anew with each seed, or with ``product_split`` as the
    pipeline splits them, whatever the seed; a stay is predicted ``hours`` after its admission.

    Raises `InputError` where the folder can't be read.
    """

    def __init__(
        self,
        folder: Path,
        cache: Path,
        only: Collection[str] = (),
        product_split: bool = False,
        hours: float = 24.0,
    ) -> None:
        super().__init__(only)
        source = open_source("tables", folder)
        source.check()
        self._source = source
        self._product_split = product_split
        self._settings = Settings(prediction_hours=hours)
        key = fingerprint(source.fingerprint(), hours, code_version(*_CODE))
        self._folder = _build_once(cache.resolve() / f"tables-{key}", self._prepare)
        self._inputs = self._folder / "inputs"
        self._base = Cohort.load(self._folder / "cohort")
        self.declared = read_tasks(self._folder / "cohort")

    def _prepare(self, to: Path) -> None:
        """Extract, split rows by the contracts, cut at the prediction time, collect the labels."""
        ingested = to / "ingested"
        inputs = to / "inputs"
        valid = {table: valid_folder(to, table) for table in TABLES}
        for folder in (ingested, inputs, *valid.values()):
            folder.mkdir()
        extract(self._source, ingested, self._settings)
        tasks = read_tasks(ingested)
        for table, folder in valid.items():
            _split_table(table, ingested, folder, valid["samples"], tasks)
        shutil.copy(ingested / "columns.json", valid["samples"])
        shutil.copy(ingested / "tasks.json", valid["labels"])
        write_inputs(valid, inputs)
        write_cohort(valid["samples"], valid["labels"], {}, to / "cohort")

    @cached_property
    def left_out(self) -> dict[str, str]:
        judged = [task for task in self.declared if task.problem != "clustering"]
        reasons = {task.name: self._too_few(task) for task in judged}
        few = {name: reason for name, reason in reasons.items() if reason}
        return few | find_leaks(judged, self._labels, _columns(self._inputs))

    @cached_property
    def scarce_tasks(self) -> tuple[str, ...]:
        """At most 14 of the tasks whose few labels have both classes, spread over their list."""
        names = [task.name for task in self.tasks if self._is_balanced(task)]
        at = np.linspace(0, len(names) - 1, min(_SCARCE_AT_MOST, len(names))).round().astype(int)
        return tuple(names[i] for i in at)

    @property
    def notes(self) -> list[str]:
        undefined = [task.name for task in self.tasks if not task.definition]
        text = (
            "The format gives labels no time: that they lie after the prediction time is what "
            "cohort.yaml's definitions say, and can't be checked here."
        )
        if len(undefined) == len(self.tasks):
            text += " It has none."
        elif undefined:
            text += (
                f" {len(undefined)} of {len(self.tasks)} tasks have none: {', '.join(undefined)}."
            )
        return [text, "Checked: no label below is an input (see quality_study/leakage.py)."]

    def cohort(self, seed: int) -> Cohort:
        if self._product_split:
            return _train_on_calibration(self._base)
        subjects, subject_of = np.unique(self._base.subjects, return_inverse=True)
        bounds = np.round(np.cumsum(FRACTIONS) * len(subjects)).astype(int)
        split_of_place = np.searchsorted(bounds[:-1], np.arange(len(subjects)), side="right")
        split = np.empty(len(subjects), dtype=np.int8)
        split[shuffled(len(subjects), seed)] = split_of_place
        return _train_on_calibration(replace(self._base, split=split[subject_of]))

    def embedded(self, cohort: Cohort) -> Cohort:
        return self._read_embedded(cohort, {})

    def plain(self, cohort: Cohort) -> Cohort:
        return self._read_embedded(cohort, {"windows": None})

    def _read_embedded(self, cohort: Cohort, series_options: Mapping[str, Any]) -> Cohort:
        """The embedded cohort; ``series_options`` are those of the series' embedder."""
        key = fingerprint(cohort.split == TRAIN, dict(series_options))
        folder = _build_once(
            self._folder / f"embeddings-{key}",
            lambda to: self._embed(cohort.split, to, series_options),
        )
        arrays = {name: load_file(folder / name / "embedding.safetensors") for name in MODALITIES}
        return replace(
            cohort,
            embeddings={name: part["vectors"] for name, part in arrays.items()},
            present={name: part["present"] for name, part in arrays.items()},
            series=arrays[TIMESERIES].get(SERIES),
        )

    def with_series(self, embedded: Cohort) -> Cohort:
        return embedded.with_series()

    def _embed(self, split: np.ndarray, to: Path, series_options: Mapping[str, Any]) -> None:
        """Run each modality's job on the inputs, in which other samples are the training split."""
        inputs = to / "inputs"
        inputs.mkdir()
        for file in self._inputs.iterdir():
            if file.name != "samples.parquet":
                (inputs / file.name).symlink_to(file)
        samples = pl.read_parquet(self._inputs / "samples.parquet")
        samples.with_columns(split=pl.Series(split)).write_parquet(inputs / "samples.parquet")
        settings = EmbeddingConfig()
        for modality in MODALITIES:
            target = to / modality
            target.mkdir()
            options = {} if is_given(modality, inputs) else encoder_options(modality, settings)
            if modality == TIMESERIES and options:
                options |= series_options
            absent = absent_embedder(modality, inputs, options)
            if absent:
                embed_nothing(absent, inputs, target)
                continue
            job = {
                "modality": modality,
                "inputs": str(inputs),
                "options": options,
                "series_steps": settings.series_steps,
                "cache": str(self._folder / "items"),
                "cache_bytes": int(settings.cache_gb * 1e9),
                "to": str(target),
            }
            embed(job, lambda line: None)

    def near_twins(self, task: str) -> set[str]:
        own = self._label_columns(task)
        others = {other.name for other in self.tasks} - {task}
        return {other for other in others if _hang_together(own, self._label_columns(other))}

    @cached_property
    def _labels(self) -> dict[str, np.ndarray]:
        """Labels {task: [N]}, NaN where not labelled."""
        return {
            name: np.where(self._base.labelled[name], values, np.nan)
            for name, values in self._base.labels.items()
        }

    def _label_columns(self, task: str) -> np.ndarray:
        """A task's labels [N, C]: of a multiclass task a column a class."""
        y = self._labels[task]
        spec = next(some for some in self.declared if some.name == task)
        if spec.problem != "multiclass":
            return y[:, None]
        is_class = (y[:, None] == np.arange(spec.n_outputs)).astype(float)
        return np.where(np.isnan(y)[:, None], np.nan, is_class)

    def _too_few(self, task: TaskSpec) -> str | None:
        """Why a task can't be judged on an average test split, in words."""
        y = self._base.labels[task.name][self._base.labelled[task.name]]
        share = (self._base.split == TEST).mean() if self._product_split else FRACTIONS[TEST]
        if len(y) * share < MIN_SAMPLES_TO_SCORE:
            return f"a test split has fewer than {MIN_SAMPLES_TO_SCORE} labels"
        if task.problem == "regression":
            return None
        counts = np.bincount(y.astype(int), minlength=task.n_outputs if task.classes else 2)
        if counts.min() * share < _FEWEST_OF_A_CLASS:
            return f"a test split has fewer than {_FEWEST_OF_A_CLASS} of a class"
        return None

    def _is_balanced(self, task: TaskSpec) -> bool:
        """Whether a few labels of the task have both classes."""
        y = self._base.labels[task.name][self._base.labelled[task.name]]
        if task.problem == "multiclass":
            return False
        return task.problem == "regression" or _SCARCE_SHARE <= y.mean() <= 1 - _SCARCE_SHARE


def _train_on_calibration(cohort: Cohort) -> Cohort:
    """The cohort whose calibration split is training rows: cross-fitting needs none."""
    return replace(cohort, split=np.where(cohort.split == CALIBRATION, TRAIN, cohort.split))


def _split_table(
    table: str, ingested: Path, to: Path, samples: Path, tasks: Sequence[TaskSpec]
) -> None:
    signals = ingested / SIGNALS
    is_samples = table == "samples"
    split_rows(
        table,
        ingested / f"{table}.parquet",
        to / f"{table}.parquet",
        to / "quarantine.parquet",
        samples=None if is_samples else samples / "samples.parquet",
        quarantined_samples=None if is_samples else samples / "quarantine.parquet",
        tasks=tasks,
        signals=json.loads(signals.read_text()) if signals.exists() else [],
    )


def _columns(inputs: Path) -> dict[str, np.ndarray]:
    """What a sample's inputs say in one number or word each {name: [N]}: its columns, and a few
    values of each signal.
    """
    columns: dict[str, np.ndarray] = dict(modality_items("tabular", inputs))
    order = pl.read_parquet(inputs / "samples.parquet", columns=["sample_id"])
    value = pl.col("value").sort_by("hours")
    some = {
        "last": value.last(),
        "first": value.first(),
        "smallest": value.min(),
        "largest": value.max(),
        "mean": value.mean(),
    }
    events = pl.scan_parquet(inputs / "timeseries.parquet").with_columns(
        pl.col("code").cast(pl.String)
    )
    values = events.group_by("sample_id", "code").agg(**some).collect()
    for (code,), rows in values.partition_by("code", as_dict=True).items():
        placed = order.join(rows, on="sample_id", how="left", maintain_order="left")
        for name in some:
            column = placed[name].cast(pl.Float64).fill_null(float("nan"))
            columns[f"the {name} {code}"] = column.to_numpy()
    return columns


def _hang_together(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether a column of a [N, C] nearly says what one of b [N, D] says, on the rows that have
    both.
    """
    is_labelled = np.isfinite(a[:, 0]) & np.isfinite(b[:, 0])
    if is_labelled.sum() < MIN_SAMPLES_TO_SCORE:
        return False
    pairs = itertools.product(a[is_labelled].T, b[is_labelled].T)
    return any(_is_near(first, second) or _is_near(second, first) for first, second in pairs)


def _is_near(target: np.ndarray, score: np.ndarray) -> bool:
    """Whether a label [n] follows from another, in either direction."""
    if not (np.ptp(target) and np.ptp(score)):
        return False
    if np.isin(target, (0, 1)).all():
        auroc = weighted_auroc(target, score, np.ones((1, len(target))))[0]
        return max(auroc, 1 - auroc) > TWIN_AUROC
    if np.isin(score, (0, 1)).all():
        return False  # asked the other way round
    return abs(spearmanr(target, score).statistic) > TWIN_CORRELATION


def _build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """The folder, which is there in full or not at all; two runs may build it at once."""
    if folder.exists():
        return folder
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, mode=0o700)
    try:
        build(partial)
        if not folder.exists():
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder
