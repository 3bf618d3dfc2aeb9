"""Folds by subject, for cross-fitting.

A cohort is cut into K folds, and K models are trained, each without one of them: every sample is
predicted once by a model that has seen nothing of its subject. A subject's fold follows from its id
alone. It never changes as the hospital grows, so that a model of an earlier night has not seen the
subjects of its fold either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from m3h_core.data.cohort import Cohort

# Makes a subject's place another than the one that decides its split.
_SALT = "fold:"
# Seeds that a user counts up from theirs are in no other fold.
_SEEDS_APART = 1000


def assign_folds(subject_ids: Sequence[str] | np.ndarray, n_folds: int) -> np.ndarray:
    """The fold of each sample, int8 [N] from 0 to ``n_folds`` - 1.

    >>> assign_folds(["10000032", "10001217", "10001725", "10000032"], 3)
    array([2, 1, 2, 2], dtype=int8)
    """
    if not 1 <= n_folds <= 100:
        raise ValueError(f"there can be 1 to 100 folds, not {n_folds}")
    subjects, subject_of = np.unique(np.asarray(subject_ids, dtype=str), return_inverse=True)
    places = np.array([_find_place(subject) for subject in subjects])
    return (places * n_folds).astype(np.int8)[subject_of]


def with_folds(cohort: Cohort, n_folds: int) -> Cohort:
    """The cohort, to be cross-fitted in so many folds.

    With fewer than 2 it is to be judged on its test split, and so is one of so few subjects that a
    fold would be empty.
    """
    fold = assign_folds(cohort.subjects, n_folds) if n_folds > 1 else None
    if fold is not None and len(np.unique(fold)) < n_folds:
        fold = None
    return replace(cohort, fold=fold)


def seed_of_fold(seed: int, fold: int) -> int:
    """The seed of a fold's models: with one seed in all folds, what it is off would be in all."""
    return seed + _SEEDS_APART * fold


def draw_subjects(subject_ids: Sequence[str] | np.ndarray, most: int) -> np.ndarray:
    """Rows of whole subjects, in their order, at most so many; the same subjects are drawn of a
    hospital that has grown.

    >>> draw_subjects(["10000032", "10001217", "10001725", "10000032"], 3)
    array([1, 2])
    """
    subjects, subject_of = np.unique(np.asarray(subject_ids, dtype=str), return_inverse=True)
    places = np.array([_find_place(f"draw:{subject}") for subject in subjects])
    order = np.argsort(places)
    is_fitting = np.bincount(subject_of, minlength=len(subjects))[order].cumsum() <= most
    return np.flatnonzero(np.isin(subject_of, order[is_fitting]))


def select_by_fold(
    fold: np.ndarray, results: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Of K results {name: [N, ...]} for all rows, each row's of its fold [N].

    >>> results = [{"death": np.array([0.1, 0.2])}, {"death": np.array([0.3, 0.4])}]
    >>> select_by_fold(np.array([1, 0]), results)
    {'death': array([0.3, 0.2])}
    """
    selected = {name: np.array(values) for name, values in results[0].items()}
    for at, result in enumerate(results):
        rows = fold == at
        for name, values in result.items():
            selected[name][rows] = values[rows]
    return selected


def _find_place(subject: str) -> float:
    """A number in [0, 1), the same on every machine."""
    digest = hashlib.sha256(f"{_SALT}{subject}".encode()).digest()
    # 53 bits: what a float holds exactly, so that it never comes to 1.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
