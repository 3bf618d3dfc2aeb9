"""How far features of new samples are from the reference, and which of them count as changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from m3h_pipeline.config import MonitoringConfig
from m3h_pipeline.scoring.monitoring.bins import Feature, count_in_bins, design_effects
from m3h_pipeline.wording import MIN_GROUP_SIZE

# What has fewer samples, then or now, is not compared.
FEWEST_SAMPLES = 50


def compare_values(
    feature: Feature,
    values: pl.Series,
    subjects: np.ndarray | None = None,
) -> dict[str, Any] | None:
    """How far the known values of a feature are from where they were; None where too few are
    known.
    """
    from scipy.stats import chi2_contingency

    counts_then = np.array(feature["counts"])
    counts_now = count_in_bins(feature, values)
    is_used = (counts_then > 0) | (counts_now > 0)
    n_then = counts_then.sum()
    n_now = counts_now.sum()
    if min(n_then, n_now) < FEWEST_SAMPLES or is_used.sum() < 2:
        return None
    design_then, design_now = _design_effects(feature, values, subjects, "values")
    table = [counts_then[is_used] / design_then, counts_now[is_used] / design_now]
    p_value = float(chi2_contingency(table, correction=False).pvalue)
    distance = 0.5 * np.abs(counts_then / n_then - counts_now / n_now).sum()
    return _to_record(feature, distance, p_value, int(n_now))


def compare_missing(
    feature: Feature,
    values: pl.Series,
    subjects: np.ndarray | None = None,
) -> dict[str, Any] | None:
    """How far the share of samples that lack a feature is from what it was."""
    from scipy.stats import fisher_exact

    # (known, missing)
    then = (feature["known"], feature["n"] - feature["known"])
    now = (values.count(), values.null_count())
    if min(sum(then), sum(now)) < FEWEST_SAMPLES:
        return None
    share_then = then[1] / sum(then)
    share_now = now[1] / sum(now)
    design_then, design_now = _design_effects(feature, values, subjects, "known")
    table = [
        [round(count / design_then) for count in then],
        [round(count / design_now) for count in now],
    ]
    p_value = float(fisher_exact(table).pvalue)
    record = _to_record(feature, abs(share_now - share_then), p_value, sum(now))
    few = min(now) < MIN_GROUP_SIZE and min(now) > 0
    return record | {"then": round(share_then, 3), "now": None if few else round(share_now, 3)}


def mark_changes(
    records: Sequence[dict[str, Any] | None], config: MonitoringConfig
) -> list[dict[str, Any]]:
    """With q-values over all that were compared, and whether each has changed; the farthest
    first.
    """
    from scipy.stats import false_discovery_control

    compared = [record for record in records if record is not None]
    p_values = [record.pop("p") for record in compared]
    q_values = false_discovery_control(p_values) if compared else []
    for record, q in zip(compared, q_values, strict=True):
        changed = bool(q < config.fdr and record["distance"] > config.distance)
        record |= {"q": round_significant(q), "changed": changed}
    return sorted(compared, key=_farthest_first)


def round_significant(value: float) -> float:
    """A q-value to three significant digits."""
    return float(f"{value:.3g}")


def _farthest_first(record: dict[str, Any]) -> tuple[float, str, str]:
    return -record["distance"], record["modality"], record["name"]


def _design_effects(
    feature: Feature, values: pl.Series, subjects: np.ndarray | None, of: str
) -> tuple[float, float]:
    """The design effects of the reference and of tonight; 1 where nobody knows whose samples they
    are.
    """
    then = feature.get("design", {}).get(of, 1.0)
    if subjects is None:
        return then, 1.0
    return then, design_effects(feature, values, subjects)[of]


def _to_record(feature: Feature, distance: float, p_value: float, n: int) -> dict[str, Any]:
    return {
        "name": feature["name"],
        "modality": feature["modality"],
        "distance": round(float(distance), 3),
        "p": p_value,
        "n": n,
    }
