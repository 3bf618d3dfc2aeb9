"""Bins that hold no few patients: how values of a feature fall into them, and how much those vary
more than independent ones.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl

from m3h_core.grouped import design_effect
from m3h_pipeline.wording import MIN_GROUP_SIZE

_BINS = 10
_DIGITS = 3
_FIVES = 5

Feature = dict[str, Any]


def summarise(
    feature: str, modality: str, values: pl.Series, subjects: np.ndarray | None = None
) -> Feature:
    """How often a feature is known and its values fall into each bin, rounded so that no small
    group can be told.

    ``subjects`` [n]: whose samples they are; from them, how much more than independent ones these
    vary.
    """
    summary: Feature = {"name": feature, "modality": modality, "n": _round_count(len(values))}
    present = values.drop_nulls()
    if values.dtype.is_numeric():
        present = present.cast(pl.Float64)
        present = present.filter(present.is_finite())
        summary |= {"kind": "number", "edges": _find_edges(present.to_numpy())}
    else:
        summary |= {"kind": "category", "categories": _find_categories(present.cast(pl.String))}
    few_missing = len(values) - len(present) < MIN_GROUP_SIZE
    summary["known"] = _round_count(len(values) if few_missing else len(present))
    if subjects is not None:
        effects = design_effects(summary, values, subjects)
        summary["design"] = {name: round(effect, 1) for name, effect in effects.items()}
    return summary | {"counts": [_round_count(int(n)) for n in count_in_bins(summary, present)]}


def design_effects(feature: Feature, values: pl.Series, subjects: np.ndarray) -> dict[str, float]:
    """The design effect of the values' bins, and of which values are known."""
    bins = find_bins(feature, values)
    is_known = bins >= 0
    return {
        "values": design_effect(bins[is_known], subjects[is_known]),
        "known": design_effect(values.is_not_null().to_numpy(), subjects),
    }


def _round_count(n: int) -> int:
    """To fives, 0 for fewer than ten: what is left over of a total tells of no few patients."""
    return 0 if n < MIN_GROUP_SIZE else _FIVES * round(n / _FIVES)


def _find_categories(present: pl.Series) -> list[str]:
    """Those of at least ten samples, as many as leave nobody or at least ten to the others."""
    counts = present.value_counts(sort=True, name="n")
    counts = counts.sort("n", present.name, descending=[True, False])
    sizes = counts["n"].to_list()
    kept = sum(size >= MIN_GROUP_SIZE for size in sizes)
    while kept and 0 < sum(sizes[kept:]) < MIN_GROUP_SIZE:
        kept -= 1
    return sorted(counts[present.name].to_list()[:kept])


def _find_edges(present: np.ndarray) -> list[float]:
    """Ends of bins of about equal count, each bin with at least 10 values; empty where one bin is
    all there can be.
    """
    if len(present) < 2 * MIN_GROUP_SIZE:
        return []
    wanted = np.quantile(present, np.arange(1, _BINS) / _BINS)
    edges: list[float] = []
    below = 0
    for edge in sorted({float(f"{value:.{_DIGITS}g}") for value in wanted}):
        until = int((present <= edge).sum())
        if until - below >= MIN_GROUP_SIZE and len(present) - until >= MIN_GROUP_SIZE:
            edges.append(edge)
            below = until
    return edges


def count_in_bins(feature: Feature, values: pl.Series) -> np.ndarray:
    """How many values fall into each bin; the last one of categories is for all that have none."""
    bins = feature["edges"] if feature["kind"] == "number" else feature["categories"]
    places = find_bins(feature, values)
    return np.bincount(places[places >= 0], minlength=len(bins) + 1)


def find_bins(feature: Feature, values: pl.Series) -> np.ndarray:
    """The bin [n] of each value, -1 where it is not known."""
    if feature["kind"] == "number":
        numbers = values.cast(pl.Float64, strict=False).fill_null(math.nan).to_numpy()
        return np.where(np.isfinite(numbers), np.searchsorted(feature["edges"], numbers), -1)
    place = {category: i for i, category in enumerate(feature["categories"])}
    of_row = [
        -1 if value is None else place.get(value, len(place)) for value in values.cast(pl.String)
    ]
    return np.array(of_row, dtype=int)
