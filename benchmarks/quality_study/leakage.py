"""Tasks whose label is an input: to predict them is to copy.

Shapes: N rows, n of them labelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from m3h_core import TaskSpec

# A regression's label is an input where more than this share of the labels repeats one. Only labels
# of uncommon values count: two measurements of a coarse scale agree by themselves, as those of
# fifteen points of the GCS do.
MOST_EQUAL = 0.2
UNCOMMON = 0.02
# Fewer rows show nothing.
FEWEST_ROWS = 100
# An input of more values decides a label by chance.
_MOST_VALUES = 20


def find_leaks(
    tasks: Sequence[TaskSpec], labels: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]
) -> dict[str, str]:
    """Task -> which input its label is, for tasks whose label is one.

    ``labels`` {task: [N]}, NaN where not labelled; ``inputs`` {name: [N]}, numbers or strings. A
    label that is an input in other units, or a sum of several, is not found.

    >>> once = np.arange(300.0)
    >>> twice = np.where(once < 200, once, once + 0.5)
    >>> find_leaks([TaskSpec("lactate", "regression")], {"lactate": twice}, {"first": once})
    {'lactate': 'equals first on 67% of 300 labels'}
    """
    leaks = {}
    for task in tasks:
        if task.problem == "clustering":
            continue
        rows = np.flatnonzero(np.isfinite(labels[task.name]))
        y = labels[task.name][rows]
        find = _copied_from if task.problem == "regression" else _decided_by
        where = find(y, {name: values[rows] for name, values in inputs.items()})
        if where:
            leaks[task.name] = where
    return leaks


def _copied_from(y: np.ndarray, inputs: Mapping[str, np.ndarray]) -> str | None:
    """The input that repeats most of these labels [n], in words."""
    _, value_of, counts = np.unique(y, return_inverse=True, return_counts=True)
    is_uncommon = counts[value_of] < UNCOMMON * len(y)
    n = int(is_uncommon.sum())
    numbers = {name: values for name, values in inputs.items() if values.dtype.kind == "f"}
    if n < FEWEST_ROWS or not numbers:
        return None
    shares = {
        name: float(np.isclose(values[is_uncommon], y[is_uncommon], rtol=1e-6, atol=1e-9).mean())
        for name, values in numbers.items()
    }
    most = max(shares, key=lambda name: shares[name])
    if shares[most] <= MOST_EQUAL:
        return None
    return f"equals {most} on {shares[most]:.0%} of {n} labels"


def _decided_by(y: np.ndarray, inputs: Mapping[str, np.ndarray]) -> str | None:
    """The input of few values, each of which (or whose absence) has one label alone, in words."""
    if len(y) < FEWEST_ROWS or len(np.unique(y)) < 2:
        return None
    for name, values in inputs.items():
        for what, groups in (("", values), ("whether there is ", pd.isna(values))):
            code, distinct = pd.factorize(groups, use_na_sentinel=False)
            if not 2 <= len(distinct) <= _MOST_VALUES:
                continue
            pairs = {*zip(code.tolist(), y.tolist(), strict=True)}
            if len(pairs) == len(distinct):
                return f"is decided by {what}{name} on all of {len(y)} labels"
    return None
