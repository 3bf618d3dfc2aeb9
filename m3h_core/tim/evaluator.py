"""Task sets: trained in each fold, scored on its patients, and contrasts of their scores measured
with their error.

Shapes: K folds, N rows of the cohort, n contrasts, P subjects of a fold. P_i(A) is the
score of task i in a model that was trained on the task set A.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from m3h_core.config import FitConfig
from m3h_core.data.cohort import TEST, VALID, Cohort
from m3h_core.data.folds import seed_of_fold
from m3h_core.data.projection import project_inputs
from m3h_core.data.tasks import TaskSpec
from m3h_core.tim.contrasts import Contrast, Measure, TaskSet
from m3h_core.tim.seed_variance import SeedVariance
from m3h_core.tim.significance import Measured, Variances, combine_freedom, estimate_error
from m3h_core.tim.subject_scores import SubjectScores, compute_skill, score_subjects
from m3h_core.training.bank import Bank, OnProgress
from m3h_core.training.fitted import FittedModel


class Training(NamedTuple):
    """One model: a task set, in one fold, with one seed (by its place)."""

    members: TaskSet
    fold: int
    seed: int


class Scored(NamedTuple):
    """One task in one model, on patients that the model did not see; ``valid``: its skill on the
    validation split, in the first fold alone, else NaN.
    """

    judged: SubjectScores
    valid: float


@dataclass(frozen=True)
class Fold:
    """A fold: its place among all, its cohort (its patients are the test split), what trains models
    on it, the subject [N] of each row that is judged, numbered from 0, and the rows that its models
    are scored by, of the validation and the test split: ``scored_rows``, and ``scored_cohort`` of
    these alone.
    """

    place: int
    cohort: Cohort
    bank: Bank
    subject_of: np.ndarray
    scored_rows: np.ndarray
    scored_cohort: Cohort

    @classmethod
    def of(cls, place: int, cohort: Cohort, tasks: Sequence[TaskSpec], workers: int) -> Fold:
        subject_of = np.zeros(len(cohort), dtype=int)
        judged = cohort.rows(TEST)
        subject_of[judged] = np.unique(cohort.subjects[judged], return_inverse=True)[1]
        scored_rows = np.flatnonzero(np.isin(cohort.split, (VALID, TEST)))
        bank = Bank(cohort, tasks, workers)
        return cls(place, cohort, bank, subject_of, scored_rows, cohort.take(scored_rows))


class Progress:
    """Models done, out of those planned so far."""

    def __init__(self, tell: OnProgress | None = None) -> None:
        self.tell = tell
        self.done = 0
        self.planned = 0

    def advance(self, models: int) -> None:
        """So many more models are done."""
        self.done += models
        if self.tell and models:
            self.tell(self.done, max(self.done, self.planned))


class TaskSetEvaluator:
    """Trains task sets in every fold for every seed; a model is dropped once it is scored.

    A cohort without folds is one fold, its own test split. With ``n_components`` models read so
    many principal components in place of the inputs.
    """

    def __init__(
        self,
        cohort: Cohort,
        tasks: Sequence[TaskSpec],
        config: FitConfig,
        seeds: Sequence[int],
        resume: str | Path | None = None,
        progress: Progress | None = None,
        workers: int = 1,
        n_components: int | None = None,
    ) -> None:
        self.cohort = cohort
        self.tasks = tuple(tasks)
        self.seeds = tuple(seeds)
        self.config = config
        self.resume = resume
        self.progress = progress or Progress()
        self.folds = []
        for at in range(cohort.n_folds):
            of_fold = cohort.for_fold(at)
            if n_components is not None:
                of_fold = project_inputs(of_fold, n_components)
            self.folds.append(Fold.of(at, of_fold, tasks, workers))
        self.scored: dict[Training, dict[int, Scored]] = {}
        self.trained = 0

    def narrow(self, fold: int) -> TaskSetEvaluator:
        """One for this fold alone, with what was trained in it so far."""
        other = copy(self)
        other.folds = [self.folds[fold]]
        other.scored = {
            training._replace(fold=0): scores
            for training, scores in self.scored.items()
            if training.fold == fold
        }
        return other

    def reuse(self, models: Iterable[FittedModel], fold: int = 0) -> None:
        """Take models that were trained before in this fold, on some of these tasks, with one of
        these configurations.
        """
        at = {task.name: i for i, task in enumerate(self.tasks)}
        for model in models:
            members = tuple(at.get(task.name, -1) for task in model.tasks)
            if min(members) < 0 or list(members) != sorted(members):
                continue
            for seed in range(len(self.seeds)):
                training = Training(members, fold, seed)
                if model.config == self._configure(training) and training not in self.scored:
                    self._score(training, model)

    def lacking(
        self,
        sets: Iterable[TaskSet],
        folds: Sequence[int] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[Training]:
        """What is still to be trained of these sets, each once; ``folds`` and ``seeds``: only in
        these, by their places.
        """
        distinct = list(dict.fromkeys(sets))
        wanted = [
            Training(members, fold, seed)
            for fold in (range(len(self.folds)) if folds is None else folds)
            for seed in (range(len(self.seeds)) if seeds is None else seeds)
            for members in distinct
        ]
        return [training for training in wanted if training not in self.scored]

    def train(
        self,
        sets: Iterable[TaskSet],
        folds: Sequence[int] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> None:
        """Train these sets where that is not done yet, as for `lacking`, and score them."""
        missing = self.lacking(sets, folds, seeds)
        self.progress.planned += len(missing)
        for at, fold in enumerate(self.folds):
            of_fold = [training for training in missing if training.fold == at]
            before = self.progress.done

            def tell(done: int, _: int, before: int = before) -> None:
                self.progress.advance(before + done - self.progress.done)

            jobs = [(self._select_tasks(t.members), self._configure(t)) for t in of_fold]
            for place, model in fold.bank.train(jobs, on_progress=tell, resume=self.resume):
                self._score(of_fold[place], model)
        self.trained += len(missing)

    def names_of(self, members: TaskSet) -> tuple[str, ...]:
        """The names of a set's tasks."""
        return tuple(self.tasks[i].name for i in members)

    def is_trained(self, members: TaskSet) -> bool:
        """Whether a task set was trained in every fold for every seed."""
        return not self.lacking([members])

    def values(self, contrasts: Sequence[Contrast], measure: Measure = "metric") -> np.ndarray:
        """The contrasts [n], means over the folds and seeds in which they were trained."""
        by_fold_nK = self._collect(contrasts, measure)
        is_defined = np.isfinite(by_fold_nK)
        total = np.where(is_defined, by_fold_nK, 0).sum(1)
        folds = is_defined.sum(1)
        return np.divide(total, folds, out=np.full(len(contrasts), np.nan), where=folds > 0)

    def valid_values(self, contrasts: Sequence[Contrast]) -> np.ndarray:
        """The contrasts [n] of skill on the validation split of the first fold: what choices are
        made by. The others' validation splits are among the patients who are judged in it.
        """
        values = np.zeros(len(contrasts))
        for at, contrast in enumerate(contrasts):
            for (members, i), weight in contrast.items():
                skills = [of_seed.valid for of_seed in self._list_scored(members, 0, i)]
                values[at] += weight * (np.mean(skills) if skills else np.nan)
        return values

    def measure(
        self,
        contrasts: Sequence[Contrast],
        families: Sequence[int],
        measure: Measure = "skill",
        orders: np.ndarray | None = None,
    ) -> Measured:
        """Contrasts on the patients that the models did not see, with their error (see
        `estimate_error`); ``orders``: a further variance [n], of orders that were drawn.
        """
        patients_nK = self._collect_patient_variances(contrasts, measure)
        seeds_nK, freedom = self._collect_seed_variances(contrasts, measure)
        variances = Variances(patients_nK, seeds_nK, freedom, orders)
        return estimate_error(self._collect(contrasts, measure), variances, families)

    def project_errors(
        self, contrasts: Sequence[Contrast], measure: Measure = "skill"
    ) -> np.ndarray:
        """The standard errors [n] that contrasts would have if all models were trained in all folds
        and seeds, by patients and seeds.
        """
        patients_nK = self._collect_patient_variances(contrasts, measure)
        seed_variance = self._estimate_seed_variance(measure)
        trainings = len(self.folds) * len(self.seeds)
        of_seeds = np.zeros(len(contrasts))
        for at, contrast in enumerate(contrasts):
            for (members, i), weight in contrast.items():
                of_seeds[at] += weight**2 * seed_variance.variance(members, i) / trainings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of a contrast that has no score
            patients = np.nanmean(patients_nK, axis=1) / len(self.folds)
        return np.sqrt(patients + of_seeds)

    def count_judged(self, task: int) -> int:
        """The rows of all folds by which a task is judged."""
        count = 0
        for fold in self.folds:
            rows = fold.cohort.rows(TEST)
            is_clustering = self.tasks[task].problem == "clustering"
            labelled = fold.cohort.labelled.get(self.tasks[task].name)
            count += len(rows) if is_clustering or labelled is None else int(labelled[rows].sum())
        return count

    def _list_scored(self, members: TaskSet, fold: int, i: int) -> list[Scored]:
        """One task's scores in the models of a task set, those seeds that were trained."""
        trainings = [Training(members, fold, seed) for seed in range(len(self.seeds))]
        return [self.scored[training][i] for training in trainings if training in self.scored]

    def _collect(self, contrasts: Sequence[Contrast], measure: Measure) -> np.ndarray:
        """The contrasts [n, K] in each fold, each score the mean over its seeds; NaN where a model
        was not trained.
        """
        values = np.zeros((len(contrasts), len(self.folds)))
        for at, contrast in enumerate(contrasts):
            for fold in range(len(self.folds)):
                for (members, i), weight in contrast.items():
                    scored = self._list_scored(members, fold, i)
                    scores = [getattr(of_seed.judged, measure) for of_seed in scored]
                    values[at, fold] += weight * (np.mean(scores) if scores else np.nan)
        return values

    def _collect_patient_variances(
        self, contrasts: Sequence[Contrast], measure: Measure
    ) -> np.ndarray:
        """The variances [n, K] of contrasts that come from patients, NaN where a model was not
        trained.
        """
        variances = np.full((len(contrasts), len(self.folds)), np.nan)
        for at, contrast in enumerate(contrasts):
            for fold in range(len(self.folds)):
                if all(self._list_scored(members, fold, i) for members, i in contrast):
                    variances[at, fold] = self._sum_patients(contrast, fold, measure)
        return variances

    def _collect_seed_variances(
        self, contrasts: Sequence[Contrast], measure: Measure
    ) -> tuple[np.ndarray, np.ndarray]:
        """The variances [n, K] of contrasts that come from seeds, NaN where a model was not
        trained, and their degrees of freedom [n].
        """
        variances_nK = np.full((len(contrasts), len(self.folds)), np.nan)
        freedom = np.zeros(len(contrasts))
        seed_variance = self._estimate_seed_variance(measure)
        for at, contrast in enumerate(contrasts):
            of_models = np.zeros((len(contrast), len(self.folds)))
            for fold in range(len(self.folds)):
                repeats = [len(self._list_scored(members, fold, i)) for members, i in contrast]
                if not all(repeats):
                    continue
                of_one_seed = [
                    weight**2 * seed_variance.variance(*key) for key, weight in contrast.items()
                ]
                of_models[:, fold] = np.array(of_one_seed) / repeats
                variances_nK[at, fold] = of_models[:, fold].sum()
            degrees = np.array([seed_variance.freedom(*key) for key in contrast])
            freedom[at] = combine_freedom(of_models.sum(1), degrees)
        return variances_nK, freedom

    def _sum_patients(self, contrast: Contrast, fold: int, measure: Measure) -> float:
        """The variance of a contrast in a fold that comes from its patients."""
        parts = []
        for (members, i), weight in contrast.items():
            scored = self._list_scored(members, fold, i)
            of_seeds = [getattr(of_seed.judged, f"{measure}_P") for of_seed in scored]
            parts.append(weight * np.mean(of_seeds, axis=0, dtype=np.float64))
        total_P = np.sum(np.array(parts), axis=0)
        return float(total_P @ total_P)

    def _estimate_seed_variance(self, measure: Measure) -> SeedVariance:
        """How much scores vary from seed to seed."""
        seed_variance = SeedVariance()
        for members, fold in dict.fromkeys((t.members, t.fold) for t in self.scored):
            for i in members:
                scored = self._list_scored(members, fold, i)
                scores = [getattr(of_seed.judged, measure) for of_seed in scored]
                seed_variance.add(members, i, scores)
        return seed_variance

    def _configure(self, training: Training) -> FitConfig:
        seed = seed_of_fold(self.seeds[training.seed], self.folds[training.fold].place)
        return replace(self.config, seed=seed)

    def _select_tasks(self, members: TaskSet) -> list[TaskSpec]:
        return [self.tasks[i] for i in members]

    def _score(self, training: Training, model: FittedModel) -> None:
        fold = self.folds[training.fold]
        predicted = model.predict(fold.scored_cohort)
        scores = {}
        for i in training.members:
            task = self.tasks[i]
            of_rows = predicted[task.name]
            prediction = np.zeros((len(fold.cohort), *of_rows.shape[1:]))
            prediction[fold.scored_rows] = of_rows
            judged = score_subjects(fold.cohort, task, prediction, fold.subject_of)
            is_first = training.fold == 0
            valid = compute_skill(fold.cohort, task, prediction, VALID) if is_first else np.nan
            scores[i] = Scored(judged, valid)
        self.scored[training] = scores
