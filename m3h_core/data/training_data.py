"""What training reads of a cohort, as tensors. Everything fitted here is fitted on the training
split alone.

Shapes: N samples, n training rows, m validation rows, F inputs, C components.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from m3h_core.config import FitConfig
from m3h_core.data.cohort import TRAIN, VALID, Cohort
from m3h_core.data.inputs import cohort_tensors, standardize
from m3h_core.data.k_means import choose_n_clusters
from m3h_core.data.silhouette import input_space
from m3h_core.data.tasks import TaskSpec
from m3h_core.files import fingerprint

# With fewer validation rows than this, the number of clusters is chosen on the training rows.
FEWEST_TO_JUDGE_CLUSTERS = 20
# With less validation evidence than this, a task's share of a learner or loan is not chosen by it.
LEAST_TO_JUDGE = 10


@dataclass(frozen=True)
class TrainingData:
    """A cohort made ready for a list of tasks.

    ``x_train`` [n, F], ``x_valid`` [m, F]; ``targets`` and ``weights`` [tasks, n],
    ``valid_targets`` and ``valid_mask`` [tasks, m]. A weight is 0 where not labelled, else (n /
    labelled rows of the task) ** balance: at balance 1 the mean over any batch is an unbiased
    estimate of the mean over the labelled rows, and no batch is a special case for having no label.
    ``components`` [C, n] and ``valid_components`` [C, m] are what clustering tasks reconstruct (C =
    0 without one), and ``n_clusters`` their number of clusters where it is not given: chosen on the
    validation rows, in the inputs, so that it is the same however and beside whatever the task is
    trained.
    """

    tasks: tuple[TaskSpec, ...]
    modalities: dict[str, int]
    mean: Tensor
    inverse_scale: Tensor
    x_train: Tensor
    x_valid: Tensor
    targets: Tensor
    weights: Tensor
    valid_targets: Tensor
    valid_mask: Tensor
    components: Tensor
    valid_components: Tensor
    n_clusters: int
    about: dict[str, _About]

    @classmethod
    def of(cls, cohort: Cohort, tasks: Sequence[TaskSpec], config: FitConfig) -> TrainingData:
        """Prepare a cohort for these tasks, in the configuration's precision; raises ValueError for
        wrong labels.
        """
        _check_labels(cohort, tasks)
        train = cohort.rows(TRAIN)
        valid = cohort.rows(VALID)
        if not len(train):
            raise ValueError("the cohort has no row in the training split")
        widths = cohort.widths
        mean, inverse_scale = (torch.tensor(v, dtype=config.dtype) for v in _standardizer(cohort))
        x_train, x_valid = (
            standardize(*cohort_tensors(cohort, rows), widths, mean, inverse_scale)
            for rows in (train, valid)
        )
        about = {task.name: _About.of(cohort, task) for task in tasks}
        columns = [
            (
                *about[task.name].column(cohort, task, train),
                *about[task.name].column(cohort, task, valid),
            )
            for task in tasks
        ]
        targets, labelled, valid_targets, valid_mask = (
            torch.tensor(np.array(part), dtype=config.dtype) for part in zip(*columns, strict=True)
        )
        weights = (
            labelled * (len(train) / labelled.sum(1, keepdim=True).clamp_min(1)) ** config.balance
        )
        components = x_train.new_zeros(0, len(train))
        valid_components = x_valid.new_zeros(0, len(valid))
        n_clusters = 0
        if any(task.problem == "clustering" for task in tasks):
            components, valid_components = _components(
                x_train, x_valid, widths, config.cluster_components
            )
        if any(task.problem == "clustering" and not task.n_classes for task in tasks):
            by_valid = len(valid) >= FEWEST_TO_JUDGE_CLUSTERS
            n_clusters = choose_n_clusters(
                components.T.double().numpy(),
                (valid_components if by_valid else components).T.double().numpy(),
                input_space(cohort)[valid if by_valid else train],
                config.max_clusters,
            )
        return cls(
            tuple(tasks),
            widths,
            mean,
            inverse_scale,
            x_train,
            x_valid,
            targets,
            weights,
            valid_targets,
            valid_mask,
            components,
            valid_components,
            n_clusters,
            about,
        )

    def fingerprint(self) -> str:
        """A hash of all that training reads."""
        tensors = [
            self.x_train,
            self.x_valid,
            self.targets,
            self.weights,
            self.valid_targets,
            self.valid_mask,
        ]
        return fingerprint(self.modalities, [task.to_dict() for task in self.tasks], *tensors)

    @property
    def valid_evidence(self) -> Tensor:
        """How many validation labels of each task [tasks] there are to judge by: of a classified
        task all but those of its most frequent class, which alone say little.
        """
        counts = []
        for task, target_m, mask_m in zip(
            self.tasks, self.valid_targets, self.valid_mask, strict=True
        ):
            labels = target_m[mask_m > 0]
            is_classified = task.problem in ("binary", "multiclass") and len(labels) > 0
            most = int(labels.long().bincount().max()) if is_classified else 0
            counts.append(len(labels) - most)
        return torch.tensor(counts)

    def with_clusters(self, tasks: Sequence[TaskSpec]) -> list[TaskSpec]:
        """The tasks; a clustering task whose number of clusters is not given has the one chosen."""
        return [
            replace(task, classes=self.n_clusters)
            if task.problem == "clustering" and not task.n_classes
            else task
            for task in tasks
        ]

    def prior(self, task: TaskSpec) -> np.ndarray:
        """The best constant output of a task [O]."""
        return np.array(self.about[task.name].prior)

    def units(self, tasks: Sequence[TaskSpec]) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation of the training labels of each regression task."""
        return {
            t.name: (self.about[t.name].mean, self.about[t.name].scale)
            for t in tasks
            if t.problem == "regression"
        }


@dataclass(frozen=True)
class _About:
    """What a task's training labels say of it: its unit, and the best constant as head bias."""

    mean: float = 0.0
    scale: float = 1.0
    prior: tuple[float, ...] = (0.0,)

    @classmethod
    def of(cls, cohort: Cohort, task: TaskSpec) -> _About:
        if task.problem == "clustering":
            return cls()
        rows = cohort.rows(TRAIN)
        labels = np.asarray(cohort.labels[task.name], dtype=np.float64)[rows][
            cohort.labelled[task.name][rows]
        ]
        if task.problem == "regression":
            if not len(labels):
                return cls()
            mean = float(labels.mean())
            deviation = float(labels.std())
            return cls(mean, deviation if deviation > 1e-12 * max(1.0, abs(mean)) else 1.0)
        # One row of each class is added, so that a class not seen is rare and not impossible.
        counts = np.bincount(labels.astype(int), minlength=max(2, task.n_outputs)) + 1.0
        share = counts / counts.sum()
        prior = np.log(share[1:] / share[0]) if task.problem == "binary" else np.log(share)
        return cls(prior=tuple(prior.tolist()))

    def column(
        self, cohort: Cohort, task: TaskSpec, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Standardised targets and whether they are known, of some rows."""
        if task.problem == "clustering":
            return np.zeros(len(rows)), np.ones(len(rows))
        labelled = np.asarray(cohort.labelled[task.name])[rows]
        values = np.asarray(cohort.labels[task.name], dtype=np.float64)[rows]
        return np.where(
            labelled, (np.where(labelled, values, 0) - self.mean) / self.scale, 0
        ), labelled.astype(float)


def _check_labels(cohort: Cohort, tasks: Sequence[TaskSpec]) -> None:
    for task in tasks:
        if task.problem == "clustering":
            continue
        if task.name not in cohort.labels:
            raise ValueError(f"the cohort has no labels for task {task.name!r}")
        labels = np.asarray(cohort.labels[task.name])[np.asarray(cohort.labelled[task.name])]
        classes = {"binary": 2, "multiclass": task.n_outputs}.get(task.problem)
        if classes and not np.isin(labels, range(classes)).all():
            raise ValueError(
                f"the labels of {task.problem} task {task.name!r} must be whole and from 0 to "
                f"{classes - 1}"
            )


def _standardizer(cohort: Cohort) -> tuple[np.ndarray, np.ndarray]:
    """Mean and inverse standard deviation of each input over the training rows that have it; 0 for
    a constant one.
    """
    means = []
    inverses = []
    for name, values in cohort.embeddings.items():
        train_rows = np.asarray(values, dtype=np.float64)[
            np.asarray(cohort.present[name]) & (cohort.split == TRAIN)
        ]
        mean = train_rows.mean(0) if len(train_rows) else np.zeros(values.shape[1])
        deviation = train_rows.std(0) if len(train_rows) else np.zeros(values.shape[1])
        varies = deviation > 1e-6 * np.maximum(1.0, np.abs(mean))
        means.append(mean)
        inverses.append(np.where(varies, 1 / np.where(varies, deviation, 1), 0))
    return np.concatenate(means), np.concatenate(inverses)


def _components(
    x: Tensor, x_valid: Tensor, widths: Mapping[str, int], count: int
) -> tuple[Tensor, Tensor]:
    """Leading principal components of the inputs of both splits, each modality counted alike.

    Scaled to a mean variance of 1, with their relative sizes kept.
    """
    from sklearn.decomposition import PCA

    weights = torch.cat([torch.full((w,), w**-0.5) for w in widths.values()]).to(x)
    weighted_nF = (x[:, : len(weights)] * weights).double().numpy()
    weighted_mF = (x_valid[:, : len(weights)] * weights).double().numpy()
    # With fewer rows than columns the covariance of the columns would cost more than the rows.
    solver = "covariance_eigh" if weighted_nF.shape[0] >= weighted_nF.shape[1] else "full"
    # n rows vary in n - 1 directions: the components that are lacking then are 0.
    n_components = max(1, min(count, len(weighted_nF) - 1, weighted_nF.shape[1]))
    pca = PCA(n_components, svd_solver=solver).fit(weighted_nF)
    # Not pca.transform, which wants rows: there may be none to validate by.
    scores = [pca.components_ @ (part - pca.mean_).T for part in (weighted_nF, weighted_mF)]
    scale = max(float(scores[0].var(1).mean()), 1e-12) ** 0.5
    lacking = (0, min(count, x.shape[1]) - n_components)
    components_Cn, components_Cm = (np.pad(part / scale, (lacking, (0, 0))) for part in scores)
    return torch.tensor(components_Cn).to(x), torch.tensor(components_Cm).to(x)
